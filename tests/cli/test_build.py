"""A build is repeated when its result would differ, and only then."""

import pytest

from cli import prefix_headers, stamps
from cli.commands import build
from cli.paths import CheckoutLayout


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Lay out a small workspace that was just built."""
    for name in ('ROS_DISTRO', 'AMENT_PREFIX_PATH'):
        monkeypatch.delenv(name, raising=False)
    layout = CheckoutLayout(tmp_path)
    for name, text in {
        'src/p/package.xml': '<package/>',
        'src/p/p/__init__.py': '',
        'src/p/p/node.py': 'x = 1',
        'src/p/config/a.yaml': 'a: 1',
        'src/msgs/msg/A.msg': 'bool a',
        'install/local_setup.bash': '',
        str(prefix_headers.PINS): 'ros-rcutils==6.7.4',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    stamps.write(layout.stamps / 'build', build.hash_build_inputs(layout))
    assert build.is_ready(layout)
    return layout


@pytest.mark.parametrize(
    'name',
    [
        'src/p/p/node.py',
        'src/p/p/new.py',
        'src/p/config/a.yaml',
        'src/p/p/__pycache__/node.cpython-312.pyc',
    ],
)
def test_what_is_linked_needs_no_build(layout, name):
    (layout.root / name).parent.mkdir(exist_ok=True)
    (layout.root / name).write_text('changed')
    assert build.is_ready(layout)


@pytest.mark.parametrize(
    'name',
    [
        'src/p/package.xml',
        'src/p/setup.py',
        'src/p/config/new.yaml',
        'src/p/launch.py',
        'src/msgs/msg/A.msg',
        'src/msgs/msg/B.msg',
        str(prefix_headers.PINS),
    ],
)
def test_what_is_compiled_copied_or_new_needs_one(layout, name):
    (layout.root / name).write_text('changed')
    assert not build.is_ready(layout)


def test_a_removed_install_folder_needs_one(layout):
    (layout.install_dir / 'local_setup.bash').unlink()
    assert not build.is_ready(layout)


def test_another_ros_starts_from_nothing(layout, tmp_path, monkeypatch):
    (layout.root / 'build').mkdir()
    build._clean_if_ros_changed(layout)
    assert not (layout.root / 'build').exists()
    (layout.root / 'build').mkdir()
    build._clean_if_ros_changed(layout)
    assert (layout.root / 'build').exists(), 'the same ROS 2 keeps what was built'
    other = tmp_path / 'other'
    (other / 'share/rclpy').mkdir(parents=True)
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(other))
    build._clean_if_ros_changed(layout)
    assert not (layout.root / 'build').exists()
