"""The evaluation's door, its report and its table; trials themselves are tested elsewhere."""

import json
from dataclasses import replace

import pytest

from wam_learning.evaluation import evaluate, parallel_eval, report_table
from wam_learning.evaluation.eval_conditions import MAIN, make_trials
from wam_learning.evaluation.eval_worker import EvalJob
from wam_learning.evaluation.trials import TrialResult
from wam_policy.core.robot import checkpoints
from wam_sim.physics import sim_robot as robots
from wam_sim.tasks.task_families import LEARNED_FAMILIES


def make_results(module, robot, jobs, workers, log):
    """Succeed in every second trial, at once."""
    return [
        TrialResult(
            trial,
            ((1.5 if i % 2 == 0 else None), *[None] * (len(trial.goals) - 1)),
            4.0,
            30,
            0.4,
            '',
            (80.0,),
            (20.0, 19.0, 18.0, 17.0) if job.foresight else (),
            (0.8, 0.7, 0.6, 0.5) if job.foresight else (),
        )
        for job in jobs
        for i, trial in enumerate(job.trials)
    ]


@pytest.fixture
def started_modules(monkeypatch):
    called = []

    def tried(module, robot, jobs, workers, say):
        called.append((module, [job.trials[0].series for job in jobs], workers))
        return make_results(module, robot, jobs, workers, say)

    monkeypatch.setattr(parallel_eval, 'run_trials', tried)
    return called


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--robot', 'g1'], 'invalid choice'),
        (['--episodes', '0'], 'want 1 or more'),
        (['--families', 'touch,poke'], "no 'poke'; there are touch, push, lift, recall"),
        (['--baselines', 'x'], "no 'x'; there are swapped"),
        (['--baselines', 'cloned'], 'needs --cloned DIR'),
        (['--fast'], '--fast belongs to --direct'),
        (['--checkpoint', 'expert'], 'belongs to --direct'),
        (['--report', '/no/such/r.json'], 'there is no folder'),
    ],
)
def test_wrong_arguments_are_refused(given, words, capsys):
    with pytest.raises(SystemExit) as refused:
        evaluate.parse_arguments(given)
    assert refused.value.code == 2 and words in capsys.readouterr().err


def test_all_baselines_are_those_for_which_there_is_a_checkpoint():
    assert {'cloned', 'flash'}.isdisjoint(
        evaluate.parse_arguments(['--baselines', 'all']).baselines
    )
    assert 'cloned' in evaluate.parse_arguments(['--baselines', 'all', '--cloned', 'x']).baselines


def test_the_report_is_flat_and_says_where_it_comes_from(started_modules, tmp_path, capsys):
    report = tmp_path / 'r.json'
    assert (
        evaluate.main(
            [
                '--checkpoint',
                'preset:mini',
                '--episodes',
                '8',
                '--baselines',
                'swapped,forgetful',
                '--baseline-episodes',
                '4',
                '--report',
                str(report),
                '--results',
                str(tmp_path / 'lines'),
            ]
        )
        == 0
    )
    found = json.loads(report.read_text())
    assert found['success_rate'] == 0.5 and found['success_trials'] == 8
    assert found['success_low'] < 0.5 < found['success_high']
    assert found['trained'] == 0 and found['path'] == 'ros' and found['robot'] == 'agibot_g1'
    assert {
        'commit',
        'date',
        'machine',
        'chunk_rate_hz',
        'jerk_ratio',
        'latency_p50_ms',
        'time_to_success_p90_s',
        'swapped_original_rate',
        'forgetful_success_recall_rate',
        'psnr_db_frame_4',
        'ssim_frame_1',
    } <= set(found)
    # words are tried through ROS, what changes the policy inside is not
    assert started_modules == [
        ('wam_tools.evaluate_ros', ['main', 'swapped'], 1),
        ('wam_learning.evaluation.eval_worker', ['forgetful'], 2),
    ]
    assert len((tmp_path / 'lines').read_text().splitlines()) == 16
    capsys.readouterr()
    assert evaluate.main(['--table', str(report)]) == 0
    shown = capsys.readouterr().out
    assert '| success | 50 % (22–78, n = 8) |' in shown and 'original one reached' in shown


def test_direct_needs_no_ros(started_modules):
    chosen = evaluate.parse_arguments(
        [
            '--direct',
            '--checkpoint',
            'expert',
            '--episodes',
            '4',
            '--baselines',
            'changed',
            '--workers',
            '1',
        ]
    )
    found = evaluate.run_evaluation(chosen)
    assert [module for module, *_ in started_modules] == ['wam_learning.evaluation.eval_worker']
    assert found['path'] == 'direct' and found['changed_original_rate'] == 0.0


def test_the_expert_is_tried_directly_from_the_door_to_the_report(tmp_path, capsys):
    report = tmp_path / 'r.json'
    assert (
        evaluate.main(
            [
                '--direct',
                '--checkpoint',
                'expert',
                '--robot',
                'agibot_g1',
                '--episodes',
                '1',
                '--families',
                'touch',
                '--workers',
                '1',
                '--report',
                str(report),
            ]
        )
        == 0
    ), capsys.readouterr().err
    found = json.loads(report.read_text())
    assert found['success_rate'] == 1.0 and found['model'] == 'expert'


def test_a_model_is_tried_directly_and_fast_in_the_program_that_also_draws(monkeypatch):
    """One process has the model and the cameras, whose libraries clash in the wrong order."""
    monkeypatch.setenv('MUJOCO_GL', 'osmesa')
    trials = [
        replace(trial, limit_s=0.5)
        for trial in make_trials(MAIN, robots.load('agibot_g1'), ('touch',), 1, 9_000_000)
    ]
    job = EvalJob(checkpoints.resolve_checkpoint('mini'), tuple(trials), pace={'fast': True})
    (result,) = parallel_eval.run_trials(
        'wam_learning.evaluation.eval_worker', 'agibot_g1', [job], 1, str
    )
    assert result.chunks >= 2 and result.trouble == '' and result.jerk_ratio <= 1.0 + 1e-6


def test_a_checkpoint_that_is_not_there_is_named(started_modules, capsys):
    assert evaluate.main(['--checkpoint', '/no/such', '--episodes', '1']) == 1
    assert "'/no/such' is no folder" in capsys.readouterr().err and started_modules == []


def test_a_program_that_fails_is_told_with_its_last_words():
    with pytest.raises(RuntimeError, match='No module named'):
        parallel_eval.run_trials('wam_learning.no_such_module', 'agibot_g1', [], 2, print)


def test_a_table_leaves_out_what_no_report_knows():
    text = report_table.format_markdown(
        [
            {
                'robot': 'yam',
                'trained': 1,
                'path': 'direct',
                'success_rate': 0.5,
                'success_low': 0.4,
                'success_high': 0.6,
                'success_trials': 10,
            }
        ]
    )
    assert text.splitlines()[-1] == '| success | 50 % (40–60, n = 10) |'
    assert 'Flash' not in text


def test_a_table_says_of_which_families_a_column_is():
    whole = {'robot': 'yam', 'trained': 1, 'path': 'ros', 'families': list(LEARNED_FAMILIES)}
    part = {'robot': 'yam', 'trained': 0, 'path': 'direct', 'families': ['recall']}
    assert (
        report_table.format_markdown([whole, part]).splitlines()[0]
        == '| | yam, through ROS | yam (untrained), direct, recall only |'
    )


def test_a_table_goes_between_its_marks(tmp_path, capsys):
    report, page = tmp_path / 'r.json', tmp_path / 'README.md'
    report.write_text(
        json.dumps(
            {
                'robot': 'yam',
                'success_rate': 1.0,
                'success_low': 0.5,
                'success_high': 1.0,
                'success_trials': 4,
            }
        )
    )
    page.write_text('a\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nb\n')
    assert evaluate.main(['--table', str(report), '--into', str(page)]) == 0
    shown = page.read_text()
    assert shown.startswith('a\n<!-- evaluation -->\n| |') and shown.endswith('-->\nb\n')
    assert 'old' not in shown and '100 %' in shown
    page.write_text('no marks')
    assert evaluate.main(['--table', str(report), '--into', str(page)]) == 1
    assert 'needs <!-- evaluation -->' in capsys.readouterr().err
