"""Doctor's table names what is missing and its fix, and its exit code tells the demo's chances."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from cli import prefix_headers, ros, system, venv
from cli.commands import doctor
from cli.commands.doctor import CheckResult, CheckStatus
from cli.failure import CommandError
from cli.paths import CheckoutLayout


def test_the_table_shows_each_fix_below_its_finding():
    text = doctor.format_table(
        [
            CheckResult('Python', CheckStatus.OK, '3.12', 'not shown'),
            CheckResult('build', CheckStatus.MISSING, 'src/ is not built', './wam build'),
        ]
    )
    assert text.splitlines() == [
        'Python    ok       3.12',
        'build     MISSING  src/ is not built',
        '                   -> ./wam build',
    ]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Pretend a checkout in which nothing was done, on a machine without ROS 2."""
    for name in ('ROS_DISTRO', 'AMENT_PREFIX_PATH'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ros, 'SYSTEM_PREFIX', tmp_path / 'opt')
    for name in ('tools/requirements', 'tools/ros_prefix', 'src'):
        (tmp_path / name).mkdir(parents=True)
    for name in (*venv.PIN_FILES, prefix_headers.PINS.name):
        (tmp_path / 'tools/requirements' / name).write_text('')
    return CheckoutLayout(tmp_path)


def test_an_empty_checkout_lists_every_missing_thing(empty):
    found = {finding.subject: finding for finding in doctor.run_checks(empty)}
    for subject, fix in (
        ('ROS 2', './wam setup'),
        ('packages', './wam setup'),
        ('build', './wam build'),
    ):
        assert found[subject].status is CheckStatus.MISSING
        assert found[subject].fix == fix
    assert 'imports' not in found, 'nothing to ask an environment that is not there'


def test_missing_system_packages_come_as_one_apt_line(monkeypatch):
    monkeypatch.setattr(system, 'find_missing_packages', lambda: ['cmake', 'libosmesa6'])
    finding = doctor.check_system_packages()
    assert finding.status is CheckStatus.MISSING
    assert 'sudo apt-get install cmake libosmesa6' in finding.fix


def test_a_foreign_ros_is_reported_not_raised(empty, monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    finding = doctor.check_ros(empty)
    assert finding.status is CheckStatus.MISSING
    assert 'humble' in finding.fix
    with pytest.raises(CommandError):
        ros.select_ros(empty, {'ROS_DISTRO': 'humble'})


@pytest.mark.parametrize(
    ('verdict', 'code'), [(CheckStatus.OK, 0), (CheckStatus.NOTE, 0), (CheckStatus.MISSING, 1)]
)
def test_only_what_stops_the_demo_gives_an_exit_code(verdict, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'run_checks', lambda layout: [CheckResult('x', verdict, 'text')])
    assert doctor.main([]) == code
    assert verdict.value in capsys.readouterr().out


def test_a_question_that_fails_gives_its_last_line(empty):
    empty.python.parent.mkdir(parents=True)
    empty.python.write_text('#!/bin/sh\necho noise >&2; echo "no libOSMesa" >&2; exit 1\n')
    empty.python.chmod(0o755)
    finding = doctor.run_probe(empty, {'PATH': '/usr/bin:/bin'}, 'cameras', 'render', 'the fix')
    assert finding == CheckResult('cameras', CheckStatus.MISSING, 'no libOSMesa', 'the fix')


def test_a_package_that_another_one_replaced_is_named(empty, monkeypatch):
    """As pip does when it installs a robot's driver into the same environment."""
    monkeypatch.setattr(venv, 'is_ready', lambda layout: True)
    monkeypatch.setattr(CheckoutLayout, 'python', Path(sys.executable))
    pins = empty.root / 'tools/requirements/constraints.txt'
    numpy = version('numpy')
    pins.write_text(f'numpy=={numpy}\nnot-installed-here==1.0\n')
    assert doctor.check_python_packages(empty).status is CheckStatus.OK
    pins.write_text(f'pytest=={version("pytest")}\nnumpy==1.26.4  # why\n')
    finding = doctor.check_python_packages(empty)
    assert finding.status is CheckStatus.NOTE and 'stream_python' in finding.fix
    assert finding.text == f'not as pinned: numpy {numpy} (pinned 1.26.4)'
