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
        (['--episodes', '0'], 'want more than 0'),
        (['--families', 'touch,poke'], "no 'poke'; known: touch, push, lift, recall"),
        (['--baselines', 'x'], "no 'x'; known: instruction_swap"),
        (['--baselines', 'behavior_cloning'], 'needs --bc-checkpoint DIR'),
        (['--no-planning'], '--no-planning needs --no-ros'),
        (['--execution', 'naive'], '--execution naive needs --no-ros'),
        (['--checkpoint', 'expert'], 'needs --no-ros'),
        (['--report', '/no/such/r.json'], 'no folder /no/such'),
    ],
)
def test_wrong_arguments_are_refused(given, words, capsys):
    with pytest.raises(SystemExit) as refused:
        evaluate.parse_arguments(given)
    assert refused.value.code == 2 and words in capsys.readouterr().err


def test_all_baselines_are_those_for_which_there_is_a_checkpoint():
    assert {'behavior_cloning', 'flash'}.isdisjoint(
        evaluate.parse_arguments(['--baselines', 'all']).baselines
    )
    assert (
        'behavior_cloning'
        in evaluate.parse_arguments(['--baselines', 'all', '--bc-checkpoint', 'x']).baselines
    )


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
                'instruction_swap,memory_reset',
                '--baseline-episodes',
                '4',
                '--report',
                str(report),
                '--trial-log',
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
        'instruction_swap_original_rate',
        'memory_reset_success_recall_rate',
        'psnr_db_frame_4',
        'ssim_frame_1',
    } <= set(found)
    # words are tried through ROS, what changes the policy inside is not
    assert started_modules == [
        ('wam_tools.evaluate_ros', ['main', 'instruction_swap'], 1),
        ('wam_learning.evaluation.eval_worker', ['memory_reset'], 2),
    ]
    assert len((tmp_path / 'lines').read_text().splitlines()) == 16
    capsys.readouterr()
    assert report_table.main([str(report)]) == 0
    shown = capsys.readouterr().out
    assert '| success | 50 % (22–78, n = 8) |' in shown and 'original one reached' in shown


def test_direct_needs_no_ros(started_modules):
    chosen = evaluate.parse_arguments(
        [
            '--no-ros',
            '--checkpoint',
            'expert',
            '--episodes',
            '4',
            '--baselines',
            'instruction_change',
            '--workers',
            '1',
        ]
    )
    found = evaluate.run_evaluation(chosen)
    assert [module for module, *_ in started_modules] == ['wam_learning.evaluation.eval_worker']
    assert found['path'] == 'direct' and found['instruction_change_original_rate'] == 0.0


def test_the_expert_is_tried_directly_from_the_door_to_the_report(tmp_path, capsys):
    report = tmp_path / 'r.json'
    assert (
        evaluate.main(
            [
                '--no-ros',
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
        'wam_learning.evaluation.eval_worker', 'agibot_g1', [job], 1, lambda text: None
    )
    assert result.chunks >= 2 and result.stop_reason == '' and result.jerk_ratio <= 1.0 + 1e-6


def test_a_checkpoint_that_is_not_there_is_named(started_modules, capsys):
    assert evaluate.main(['--checkpoint', '/no/such', '--episodes', '1']) == 1
    assert "'/no/such' is neither a folder" in capsys.readouterr().err and started_modules == []


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


def test_deprecated_names_are_still_accepted(tmp_path, capsys):
    options = evaluate.parse_arguments(
        ['--direct', '--fast', '--results', 'a', '--gallery=b', '--cloned', 'c', '--flash', 'd']
        + ['--latency', '0.2', '--baselines', 'swapped,changed,forgetful,imagined,cloned']
    )
    assert options.no_ros and options.no_planning and options.query_latency == 0.2
    assert (options.bc_checkpoint, options.flash_checkpoint) == ('c', 'd')
    assert (str(options.trial_log), str(options.image_dir)) == ('a', 'b')
    assert options.baselines == tuple(evaluate.DEPRECATED_NAMES.values())
    assert capsys.readouterr().err.count('is deprecated') == 7
    report, page = tmp_path / 'r.json', tmp_path / 'README.md'
    rates = {f'swapped_success_{name}': 0.5 for name in ('rate', 'low', 'high')}
    report.write_text(json.dumps({'robot': 'yam', 'swapped_success_trials': 4, **rates}))
    page.write_text('<!-- evaluation -->\n<!-- /evaluation -->\n')
    assert evaluate.main(['--table', str(report), '--into', str(page)]) == 0
    assert 'that one reached | 50 %' in page.read_text()
    assert 'use eval-table' in capsys.readouterr().err


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
    assert report_table.main([str(report), '--update', str(page)]) == 0
    shown = page.read_text()
    assert shown.startswith('a\n<!-- evaluation -->\n| |') and shown.endswith('-->\nb\n')
    assert 'old' not in shown and '100 %' in shown
    page.write_text('no marks')
    assert report_table.main([str(report), '--update', str(page)]) == 1
    assert 'needs <!-- evaluation -->' in capsys.readouterr().err
