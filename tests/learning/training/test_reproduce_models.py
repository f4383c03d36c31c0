"""The recipe is made of commands that exist, in an order in which each finds what it needs."""

import subprocess
from pathlib import Path

import pytest

from wam_learning.demonstrations import generate_demos
from wam_learning.training import reproduce_models, train


def test_every_step_finds_what_it_needs_and_parses(tmp_path):
    written = set()
    for step in reproduce_models.list_steps(tmp_path, 1.0, 2):
        if step.module == reproduce_models.TRAIN_MODULE:
            chosen = train.parse_arguments(step.arguments)
            needed = [*chosen.data, *map(Path, filter(None, [chosen.init]))]
        else:
            chosen = generate_demos._parse_arguments(step.arguments)
            needed = [Path(chosen.policy)] if chosen.policy else []
        assert {path.name for path in needed} <= written, step.name
        assert chosen.out == tmp_path / step.name
        written.add(step.name)
    assert {'mini', 'mini_yam', 'flash'} <= written


def test_a_recipe_stops_where_a_step_fails_and_goes_on_there(tmp_path, monkeypatch, capsys):
    ran, failing = [], {'clone'}

    def run(command, check):
        name = command[command.index('--out') + 1].rsplit('/', 1)[1]
        ran.append(name)
        return subprocess.CompletedProcess(command, 3 if name in failing else 0)

    monkeypatch.setattr(reproduce_models.subprocess, 'run', run)
    assert reproduce_models.main(['--out', str(tmp_path), '--scale', '0.01']) == 3
    assert ran == ['play', 'ae', 'clone'] and 'clone exited with 3' in capsys.readouterr().err
    failing.clear()
    assert reproduce_models.main(['--out', str(tmp_path), '--scale', '0.01']) == 0
    assert ran[3:5] == ['clone', 'joint'] and ran[-1] == 'flash'


@pytest.mark.parametrize('wrong', [['--scale', '0'], ['--scale', '2'], ['--workers', '0']])
def test_wrong_numbers_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        reproduce_models.main(['--out', str(tmp_path), *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_deprecated_flags_are_still_accepted(tmp_path, capsys):
    assert reproduce_models.main(['--out', str(tmp_path), '--share', '0.5', '--show']) == 0
    shown = capsys.readouterr()
    assert shown.err.count('is deprecated') == 2
    assert '--episodes=1600' in shown.out and not list(tmp_path.iterdir())
