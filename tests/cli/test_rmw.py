"""RMW implementations are found in the ament index, and doctor tries each of them."""

import pytest

from cli import ros
from cli.commands import doctor
from cli.commands.doctor import CheckResult, CheckStatus
from cli.paths import CheckoutLayout

INDEX = 'share/ament_index/resource_index/rmw_typesupport'


@pytest.fixture
def layout(tmp_path):
    """Give a ROS 2 with both RMWs, one that is not supported, and the loader."""
    (tmp_path / INDEX).mkdir(parents=True)
    for name in ('rmw_fastrtps_cpp', 'rmw_cyclonedds_cpp', 'rmw_x_cpp', 'rmw_implementation'):
        (tmp_path / INDEX / name).write_text('')
    return CheckoutLayout(tmp_path)


def test_supported_rmws_are_found_in_the_ament_index(layout, tmp_path):
    assert ros.find_installed_rmws([layout.root]) == list(ros.SUPPORTED_RMWS)
    (layout.root / INDEX / 'rmw_cyclonedds_cpp').unlink()
    assert ros.find_installed_rmws([layout.root, tmp_path / 'overlay']) == ['rmw_fastrtps_cpp']
    assert ros.rmw_debian_package('rmw_cyclonedds_cpp') == 'ros-jazzy-rmw-cyclonedds-cpp'


@pytest.mark.parametrize(
    ('used', 'order'),
    [
        ('rmw_cyclonedds_cpp', ['rmw_cyclonedds_cpp', 'rmw_fastrtps_cpp']),
        ('', ['rmw_fastrtps_cpp', 'rmw_cyclonedds_cpp']),
    ],
)
def test_only_the_rmw_in_use_must_work(layout, monkeypatch, used, order):
    tried = []

    def fail(layout, env, subject, probe, fix):
        tried.append(env['RMW_IMPLEMENTATION'])
        return CheckResult(subject, CheckStatus.MISSING, 'no message', fix)

    monkeypatch.setattr(doctor, 'run_probe', fail)
    env = {'AMENT_PREFIX_PATH': str(layout.root), 'RMW_IMPLEMENTATION': used}
    found = doctor.check_rmws(layout, env)
    assert tried == order
    assert [finding.status for finding in found] == [CheckStatus.MISSING, CheckStatus.NOTE]
    assert found[0].text == f'{order[0]} (in use): no message'
    assert ros.rmw_debian_package(order[0]) in found[0].fix


@pytest.mark.parametrize(
    ('text', 'status'),
    [
        ('no node with another DDS seen; in use: rmw_x', CheckStatus.OK),
        ('/rviz (Fast DDS): not rmw_x', CheckStatus.NOTE),
        ('check not active: src/ is not built', CheckStatus.NOTE),
    ],
)
def test_another_rmw_in_the_domain_is_a_note_with_its_fix(layout, monkeypatch, text, status):
    monkeypatch.setattr(
        doctor, 'run_probe', lambda *_: CheckResult('domain', CheckStatus.OK, text, 'fix')
    )
    assert doctor.check_domain(layout, {}).status is status
