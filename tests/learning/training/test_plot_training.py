"""The picture of a training: what it needs, and what it says when that is missing."""

import csv
from pathlib import Path

import pytest

from tests.learning import played
from wam_learning.training import plot_training, train


@pytest.fixture(scope='module')
def trained_checkpoint(tmp_path_factory):
    """A short training that kept two checkpoints on its way."""
    folder = tmp_path_factory.mktemp('curves')
    data, initial = (
        played.write_dataset(folder / 'data'),
        played.save_tiny_checkpoint(folder / 'tiny'),
    )
    words = [
        data,
        '--out',
        folder / 'out',
        '--init',
        initial,
        '--steps',
        6,
        '--batch-size',
        4,
        '--num-snapshots',
        2,
        '--device',
        'cpu',
        '--no-bf16',
    ]
    assert train.main([str(word) for word in words]) == 0
    return folder / 'out'


def test_checkpoints_are_kept_at_even_shares_and_each_is_whole(trained_checkpoint):
    kept = sorted(trained_checkpoint.glob('kept/*'))
    assert [path.name for path in kept] == ['000002', '000004']
    for path in kept:
        assert {'config.json', 'model.safetensors'} <= {file.name for file in path.iterdir()}


def test_every_checkpoint_is_tried_on_the_same_scenes_and_drawn(trained_checkpoint, monkeypatch):
    asked = []

    def run(command, check):
        asked.append(
            (
                Path(command[command.index('--checkpoint') + 1]).name,
                command[command.index('--seed') + 1],
            )
        )
        report = Path(command[command.index('--report') + 1])
        report.write_text('{"success_rate": 0.5, "success_low": 0.4, "success_high": 0.6}')
        assert check

    monkeypatch.setattr(plot_training.subprocess, 'run', run)
    assert (
        plot_training.main([str(trained_checkpoint), '--eval-episodes', '8', '--seed', '5']) == 0
    )
    assert asked == [('000002', '5'), ('000004', '5'), ('out', '5')]
    with (trained_checkpoint / 'training' / 'success.csv').open(newline='') as file:
        assert [row['step'] for row in csv.DictReader(file)] == ['2', '4', '6']
    picture = trained_checkpoint / 'training' / 'curves.png'
    assert picture.read_bytes()[:4] == b'\x89PNG' and picture.stat().st_size > 10_000


@pytest.mark.parametrize('broken', ['', 'step,loss\n', 'step,loss\n1,much\n'])
def test_a_broken_log_is_named(tmp_path, broken, capsys):
    (tmp_path / 'training').mkdir()
    (tmp_path / 'training' / 'train.csv').write_text(broken)
    assert plot_training.main([str(tmp_path)]) == 1
    assert 'train.csv' in capsys.readouterr().err
