"""The table of sub-commands: known ones load, unknown ones name the nearest."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import dispatch, exec_module
from cli.failure import CommandError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', dispatch.COMMANDS)
def test_every_command_has_a_module_or_a_file_with_a_main(name):
    command = dispatch.COMMANDS[name]
    if command.module:
        path = command.module.replace('.', '/') + '.py'
        (file,) = (ROOT / 'src').glob(f'*/{path}')
        assert "if __name__ == '__main__':" in file.read_text()
    else:
        assert callable(importlib.import_module(f'cli.commands.{name}').main)


@pytest.mark.parametrize(('old', 'new'), dispatch.DEPRECATED_COMMANDS.items())
def test_an_old_name_runs_the_command_and_warns(old, new, capsys, monkeypatch):
    executed = []
    monkeypatch.setattr(exec_module, 'exec_module', lambda *given: executed.append(given) or 0)
    assert dispatch.main([old, '--flag', 'value']) == 0
    assert executed == [(dispatch.COMMANDS[new].module, ['--flag', 'value'])]
    assert capsys.readouterr().err == (
        f'wam: warning: {old} is deprecated and will be removed in the next release: use {new}\n'
    )


def test_the_old_name_of_an_engine_command_warns(capsys, monkeypatch):
    executed = []
    monkeypatch.setattr(exec_module, 'exec_file', lambda *given: executed.append(given) or 0)
    assert dispatch.main(['engine', 'observe', '--out', 'file']) == 0
    assert executed == [('benchmarks/observations.py', ['--out', 'file'])]
    assert 'use engine record-observations' in capsys.readouterr().err


def test_faults_get_a_ros_domain_of_their_own(monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', '0')
    monkeypatch.setattr(exec_module, 'exec_module', lambda *given: 0)
    assert dispatch.main(['demo']) == 0
    assert os.environ['ROS_DOMAIN_ID'] == '0'
    assert dispatch.main(['faults']) == 0
    assert os.environ['ROS_DOMAIN_ID'] != '0'


def test_help_describes_every_command(capsys):
    assert dispatch.main([]) == 0
    text = capsys.readouterr().out
    assert all(f'  {name} ' in text for name in dispatch.COMMANDS)


@pytest.mark.parametrize(
    ('typed', 'meant'),
    [('tets', 'test'), ('docter', 'doctor'), ('buidl', 'build'), ('shel', 'shell')],
)
def test_an_unknown_command_names_the_nearest(typed, meant, capsys):
    assert dispatch.main([typed]) == 2
    assert f'did you mean {meant}?' in capsys.readouterr().err


def test_nothing_near_lists_all(capsys):
    assert dispatch.main(['xyzzy']) == 2
    assert ', '.join(dispatch.COMMANDS) in capsys.readouterr().err


class FakeCommand:
    """Stands for a command's file: raises what it is given."""

    def __init__(self, error):
        self.error = error

    def main(self, arguments):
        raise self.error


@pytest.mark.parametrize(
    ('error', 'code', 'line'),
    [
        (CommandError('ROS 2 humble is sourced'), 1, 'wam: ROS 2 humble is sourced\n'),
        (OSError(28, 'No space left on device'), 1, 'the disk is full'),
        (PermissionError(13, 'Permission denied', '/ro/file'), 1, '/ro/file'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_failures_become_one_line_and_an_exit_code(error, code, line, capsys, monkeypatch):
    monkeypatch.setattr(importlib, 'import_module', lambda name: FakeCommand(error))
    assert dispatch.main(['setup']) == code
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.count('\n') == 1


def test_it_runs_from_any_folder_without_the_environment(tmp_path):
    result = subprocess.run(
        [sys.executable, ROOT / 'tools/cli', 'help'],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert 'setup' in result.stdout
