"""Delays: every execution on the same scenes, at rest and in motion; a report is continued."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wam_learning.evaluation import delay_table, evaluate
from wam_learning.evaluation.trials import TrialResult
from wam_policy.core.robot.checkpoints import resolve_checkpoint
from wam_policy.model.checkpoint import adapter_folder


@pytest.fixture
def cells(monkeypatch):
    """Answer trials without running them: late answers of naive fail."""
    seen = []

    def run_trials(module, robot, jobs, workers, log):
        seen.append(jobs)
        pace = jobs[0].pace
        fails = pace['execution'] == 'naive' and pace['query_s'] > 0.5
        return [
            TrialResult(
                trial, (None if fails else 1.5, None), 2.0, 9, 0.0, '', (), (), (),
                measured_jerk_ratio=3.0,
            )
            for job in jobs
            for trial in job.trials
        ]  # fmt: skip

    monkeypatch.setattr(delay_table.parallel_eval, 'run_trials', run_trials)
    return seen


def test_every_cell_runs_the_same_scenes_and_a_report_is_continued(cells, tmp_path, capsys):
    report = tmp_path / 'r.json'
    given = ['--episodes', '6', '--report', str(report), '--executions', 'naive,rolled_forward']
    assert delay_table.main([*given, '--delays', '0,600']) == 0
    assert len(cells) == 4
    scenes = [[(t.family, t.seed, t.series) for job in jobs for t in job.trials] for jobs in cells]
    assert all(found == scenes[0] for found in scenes) and len(scenes[0]) == 12
    planned = {(jobs[0].pace['execution'], jobs[0].pace['fast']) for jobs in cells}
    assert planned == {('naive', True), ('rolled_forward', False)}
    out = capsys.readouterr().out
    assert '| 600 ms | 0% (0–39), jerk 3 | 100% (61–100), 1.5 s, jerk 3 |' in out
    assert delay_table.main([*given, '--delays', '0,200,600']) == 0
    assert [jobs[0].pace['query_s'] for jobs in cells[4:]] == [0.2, 0.2]
    found = json.loads(report.read_text())
    assert len(found['cells']) == 6 and not found['missing']
    given[1] = '7'  # other scenes cannot stand in the same table
    assert delay_table.main([*given, '--delays', '0']) == 1
    assert 'episodes 6, asked for 7' in capsys.readouterr().err


def test_a_checkpoint_that_cannot_continue_rows_has_no_such_column(cells, monkeypatch, capsys):
    spec = adapter_folder.read_spec(Path(resolve_checkpoint('mini')), None)
    untrained = replace(spec, max_committed_rows=0)
    monkeypatch.setattr(evaluate, 'resolve_checkpoints', lambda options: untrained)
    assert delay_table.main(['--episodes', '2', '--delays', '0']) == 0
    assert 'Not run: trained_prefix' in capsys.readouterr().out
    assert all(jobs[0].pace['execution'] != 'trained_prefix' for jobs in cells)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--delays', 'soon'], 'whole milliseconds'),
        (['--delays', '0,2000'], 'want 0 to 1999 ms'),
        (['--executions', 'fast'], 'no fast; known: naive'),
        (['--baselines', 'steps_1'], 'use ./wam eval'),
    ],
)
def test_what_cannot_be_run_is_refused(given, words, capsys):
    with pytest.raises(SystemExit):
        delay_table.parse_arguments(given)
    assert words in capsys.readouterr().err
