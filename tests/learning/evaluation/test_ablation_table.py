"""One table: two policies per row on the same scenes; rows without a checkpoint are listed."""

import json

import pytest

from wam_learning.evaluation import ablation_table, evaluate
from wam_learning.evaluation.ablation_table import ABLATIONS, compute_paired_difference
from wam_learning.evaluation.trials import TrialResult


def test_the_difference_is_that_of_pairs():
    pairs = [(True, False)] * 12 + [(False, True)] * 2 + [(True, True)] * 26
    difference, low, high = compute_paired_difference(pairs)
    assert difference == pytest.approx(0.25)
    # Agresti and Min: b, c, n with half a scene added to each outcome
    assert (low, high) == pytest.approx((0.2381 - 0.1658, 0.2381 + 0.1658), abs=2e-3)
    assert compute_paired_difference([(True, True)] * 30)[1] < 0
    assert compute_paired_difference([])[0] == 0


@pytest.fixture
def jobs(monkeypatch):
    """Answer trials without running them: every ablated one fails."""
    seen = []

    def run_trials(module, robot, given, workers, log):
        seen.append((robot, given))
        return [
            TrialResult(trial, (None if job is given[1] else 1.0,), 2.0, 9, 0.0, '', (), (), ())
            for job in given
            for trial in job.trials
        ]

    monkeypatch.setattr(ablation_table.parallel_eval, 'run_trials', run_trials)
    monkeypatch.setattr(evaluate, 'resolve_checkpoints', lambda options: None)
    return seen


def test_both_policies_of_a_row_run_the_same_scenes(jobs, tmp_path, capsys):
    report = tmp_path / 'r.json'
    assert ablation_table.main(['--episodes', '8', '--report', str(report)]) == 0
    found = json.loads(report.read_text())
    assert list(found['rows']) == ['real_frames', 'memory', 'one_step', 'no_guidance']
    for (_, (full, ablated)), row in zip(jobs, found['rows'].values(), strict=True):
        scenes = [[(t.family, t.seed) for t in job.trials] for job in (full, ablated)]
        assert scenes[0] == scenes[1] and row['full_trials'] == 8
        assert (row['full_rate'], row['ablated_rate'], row['difference']) == (1, 0, 1)
    assert [job[1].ablation for _, job in jobs] == ['imagined_context', 'memory_reset', '', '']
    assert [job[1].choice for _, job in jobs[2:]] == [{'steps': 16}, {'guidance': 2.0}]
    out = capsys.readouterr().out
    assert '| 100% (68–100) | 0% (0–32) |' in out
    assert '--flash-checkpoint DIR, from ./wam train DATA --init mini --stage flash' in out
    assert '--diverse-checkpoint DIR and --bc-checkpoint DIR' in out
    assert '--diverse-checkpoint DIR and --repetitive-checkpoint DIR' in out
    assert set(found['missing']) == {'flash', 'video', 'diversity', 'transfer_MINUTES'}
    assert report.with_suffix('.md').read_text() in out


def test_checkpoints_add_their_rows(jobs, tmp_path):
    given = ['--episodes', '4', '--transfer-checkpoint', f'5={tmp_path}']
    given += ['--flash-checkpoint', str(tmp_path), '--only', 'flash,transfer']
    report = ablation_table.run_ablations(ablation_table.parse_arguments(given))
    assert list(report['rows']) == ['flash', 'transfer_5'] and not report['missing']
    assert [robot for robot, _ in jobs] == ['agibot_g1', 'yam']
    assert [job[1].checkpoint for _, job in jobs] == [str(tmp_path)] * 2


def test_a_report_is_continued_and_only_repeats_what_it_names(jobs, tmp_path, capsys):
    report = tmp_path / 'r.json'
    given = ['--episodes', '4', '--report', str(report)]
    assert ablation_table.main([*given, '--only', 'memory']) == 0
    assert ablation_table.main(given) == 0
    assert [job[1].ablation for _, job in jobs] == ['memory_reset', 'imagined_context', '', '']
    assert ablation_table.main([*given, '--only', 'memory']) == 0
    assert len(jobs) == 5
    rows = {'memory', 'real_frames', 'one_step', 'no_guidance'}
    assert set(json.loads(report.read_text())['rows']) == rows
    given[1] = '5'  # other scenes cannot stand in the same table
    assert ablation_table.main(given) == 1
    assert 'episodes 4, asked for 5' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['[]', 'no JSON', '"x"'])
def test_a_file_that_is_no_report_is_kept(jobs, text, tmp_path, capsys):
    report = tmp_path / 'r.json'
    report.write_text(text)
    assert ablation_table.main(['--episodes', '4', '--report', str(report)]) == 1
    assert 'not a report of this command' in capsys.readouterr().err
    assert not jobs and report.read_text() == text


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--only', 'magic'], 'no magic; known: real_frames'),
        (['--transfer-checkpoint', '5'], 'want MINUTES=DIR'),
        (['--baselines', 'steps_1'], 'use ./wam eval'),
        (['--episodes', '0'], 'want more than 0'),
    ],
)
def test_what_cannot_be_run_is_refused(given, words, capsys):
    with pytest.raises(SystemExit):
        ablation_table.parse_arguments(given)
    assert words in capsys.readouterr().err


def test_rows_have_names_of_their_own():
    assert len({row.name for row in ABLATIONS}) == len(ABLATIONS)
