"""The judge of faults: whatever the stack owes and does not give makes a row that is not ok."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_policy.nodes.run_node import IS_SOLE_NODE
from wam_tools.fault_injection import fault_runner, run_faults
from wam_tools.fault_injection.fault import Fault, do_nothing
from wam_tools.fault_injection.fault_runner import FaultResult
from wam_tools.fault_injection.faults import process_faults
from wam_tools.fault_injection.stack_client import LIFECYCLE_NODES, StackFeature
from wam_tools.fault_injection.stack_observer import LogEntry
from wam_tools.stack_launch import StackLaunchError

pytestmark = pytest.mark.ros


class FakeTestBench:
    """Be a stack that does everything right, but for what a test plants."""

    def __init__(self, **overrides):
        self.overrides, self.released_stops, self.saved_episodes = overrides, [], []
        self.injected, self.undo = False, ExitStack()
        self.client = SimpleNamespace(
            reset_metrics=return_none,
            find_rest_start_s=lambda since_s: self.get('rests', since_s + 0.2),
            is_moving=lambda: self.get('moves', not self.injected),
            policy=SimpleNamespace(state_name='RUNNING', reason=''),
            motion=SimpleNamespace(state_name='TRACKING', reason=''),
            reason='policy: RUNNING: ; motion: TRACKING: ',
            metrics=SimpleNamespace(
                limit_violations=self.get('over', set()),
                max_step_rad=0.0005,
                status_count=9,
                max_ratios={'jerk': 1.5},
            ),
        )
        self.stack = SimpleNamespace(find_process_errors=lambda: self.get('strays', []))

    def get(self, name, default):
        return self.overrides.get(name, default)

    def ensure_moving(self):
        return not self.injected or self.get('drives', True)

    def find_log_entry(self, pattern, since_s):
        if pattern == fault_runner.DISTURBED:
            return self.get('disturbed', None)
        return self.get('says', LogEntry(since_s + 0.1, 'policy', pattern))


def return_none():
    return None


def inject(bench):
    bench.undo.callback(remove, bench)
    bench.injected = True


def remove(bench):
    bench.released_stops += bench.get('released', [])
    if bench.get('breaks', False):
        raise StackLaunchError('it fell over')


@pytest.fixture(autouse=True)
def shorten_timeouts(monkeypatch):
    for name in ('READY_S', 'RECOVERY_S', 'STATUS_S'):
        monkeypatch.setattr(fault_runner, name, 0.01)
    monkeypatch.setattr(fault_runner.time, 'sleep', lambda _: None)


def make_fault(**changes):
    return Fault(
        'family/it',
        ('part',),
        inject,
        **{'detect': 'policy: broken', 'rests': True, 'within_s': 0.01, **changes},
    )


def test_a_stack_that_keeps_its_promises_is_in_order():
    row = fault_runner.run_fault(make_fault(), FakeTestBench())
    assert row.ok and row.recovered and row.note == '' and row.limit_violations == 0
    assert (row.detected_ms, row.rest_ms) == (100.0, 200.0)


def test_what_harms_nothing_needs_no_word_and_no_rest():
    row = fault_runner.run_fault(make_fault(detect=None, rests=False), FakeTestBench(moves=True))
    assert row.ok and row.detected_ms is None and row.rest_ms is None


@pytest.mark.parametrize(
    ('planted', 'changes', 'complaint'),
    [
        ({'says': None}, {}, "no report of 'policy: broken'"),
        ({'rests': None}, {}, 'did not come to rest'),
        ({'moves': True}, {}, 'moved again'),
        ({'over': {('elbow', 'jerk')}}, {}, 'beyond limits (jerk x1.5): elbow jerk'),
        ({'drives': False}, {}, 'did not recover'),
        ({'breaks': True}, {}, 'it fell over'),
        ({'strays': ['process 7 is left over']}, {}, 'process 7 is left over'),
        ({'released': ['too fast']}, {}, 'a latched stop had to be released: too fast'),
        (
            {'disturbed': LogEntry(1.0, 'motion', 'HOLDING: why'), 'moves': True},
            {'rests': False},
            'motion was disturbed: HOLDING: why',
        ),
        ({'moves': False}, {'rests': False}, 'motion was disturbed: no motion'),
        ({}, {'check': lambda bench: 'the log is ugly'}, 'the log is ugly'),
    ],
)
def test_a_planted_failure_makes_the_row_red(planted, changes, complaint):
    row = fault_runner.run_fault(make_fault(**changes), FakeTestBench(**planted))
    assert not row.ok and complaint in row.note


def test_a_lost_episode_makes_the_row_red(tmp_path):
    bench = FakeTestBench()
    bench.saved_episodes.append(tmp_path)
    row = fault_runner.run_fault(make_fault(), bench)
    assert not row.ok and f'episode {tmp_path.name} is lost' in row.note


def test_an_operator_may_release_what_latches():
    assert fault_runner.run_fault(
        make_fault(latches=True), FakeTestBench(released=['too fast'])
    ).ok


def test_a_stack_that_is_broken_already_is_no_row():
    bench = FakeTestBench(drives=False)
    bench.injected = True
    with pytest.raises(StackLaunchError, match='does not move before family/it'):
        fault_runner.run_fault(make_fault(), bench)


class FakeRunningBench:
    """Be the stack that `run_faults` starts."""

    unclean_exits = ()

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def run_with_planted_errors(monkeypatch, tmp_path, errors):
    """Run three faults; `errors` are raised instead of a row, by fault and in order."""

    def run_fault(fault, _):
        if errors.get(fault.name):
            raise StackLaunchError(errors[fault.name].pop(0))
        return FaultResult(fault.name, True, None, 0.0, 0, None, True, 0.0, '')

    monkeypatch.setattr(run_faults, 'RunningTestBench', FakeRunningBench)
    monkeypatch.setattr(fault_runner, 'run_fault', run_fault)
    faults = [replace(make_fault(), name=f'family/{name}') for name in 'abc']
    shown = []
    try:
        rows = run_faults.run_faults(faults, None, tmp_path, 0, on_result=shown.append)
    except StackLaunchError as error:
        return shown, str(error)
    assert shown == rows
    return rows, ''


def test_a_fault_that_cannot_be_judged_is_a_row_that_fails_and_the_others_follow(
    monkeypatch, tmp_path
):
    rows, raised = run_with_planted_errors(
        monkeypatch, tmp_path, {'family/b': ['on the first stack', 'on a new one']}
    )
    assert [row.ok for row in rows] == [True, False, True] and not raised
    assert rows[1].note == 'not judged: on a new one' and not rows[1].recovered


def test_a_stack_that_never_works_ends_the_run(monkeypatch, tmp_path):
    planted = {f'family/{name}': ['it does not move'] * 3 for name in 'abc'}
    rows, raised = run_with_planted_errors(monkeypatch, tmp_path, planted)
    assert [row.fault for row in rows] == ['family/a'] and raised == 'it does not move'


def test_a_second_node_that_takes_too_long_leaves_its_row_without_a_judgment(
    monkeypatch, tmp_path
):
    (row_fault,) = (f for f in process_faults.FAULTS if f.name == 'requests/second launch')
    bench = FakeTestBench(moves=True)
    bench.stack.environment = None
    bench.stack.log_path = lambda name: tmp_path / f'{name}.log'
    for script, note in (
        ('import time; time.sleep(60)', 'not judged: a second motion had not looked'),
        (
            f'import time; print("/wam/motion {IS_SOLE_NODE}", flush=True); time.sleep(60)',
            'a second motion did not find the first and runs',
        ),
    ):
        arguments = SimpleNamespace(args=[sys.executable, '-c', script])
        bench.stack.processes = dict.fromkeys(LIFECYCLE_NODES, arguments)
        monkeypatch.setattr(process_faults, 'EXIT_TIMEOUT_S', 0.1 if 'judged' in note else 5.0)
        row = fault_runner.run_fault(row_fault, bench)
        assert not row.ok and note in row.note


def test_an_error_that_nobody_expects_leaves_the_row_without_a_judgment():
    def find_worker(_):
        return [][0]

    row = fault_runner.run_fault(
        replace(make_fault(), inject=find_worker, detect=None, rests=None), FakeTestBench()
    )
    assert not row.ok and 'not judged: IndexError' in row.note


def test_pairs_share_no_part_and_come_back_with_their_seed():
    def some(name, *touches, needs=StackFeature.NOTHING):
        return Fault(name, touches, do_nothing, name, None, required_feature=needs)

    faults = [
        some('a', 'x'),
        some('b', 'x', 'y'),
        some('c', 'z'),
        some('d', 'z', needs=StackFeature.CLOCK),
    ]
    found = run_faults.sample_fault_pairs(faults, 9, seed=4)
    assert sorted(pair.name for pair in found) == ['a + c', 'b + c']
    assert [pair.name for pair in run_faults.sample_fault_pairs(faults, 9, seed=4)] == [
        p.name for p in found
    ]


def test_a_pair_is_injected_and_removed_in_order_and_owes_what_both_owe():
    done = []

    def some(name, rests, detect):
        def inject(bench):
            bench.undo.callback(done.append, f'-{name}')
            done.append(f'+{name}')

        return Fault(name, (name,), inject, detect, rests)

    pair = run_faults.combine_faults(some('a', False, 'policy: a'), some('b', True, None))
    bench = FakeTestBench()
    pair.inject(bench)
    bench.undo.close()
    assert done == ['+a', '+b', '-b', '-a']
    assert pair.rests is True and pair.detect == '(policy: a)'


def test_every_family_of_the_issue_is_in_the_table():
    names = [
        fault.name
        for fault in run_faults.make_all_faults(run_faults.embodiment.load_embodiment('agibot_g1'))
    ]
    assert len(names) == len(set(names)) > 60
    assert {name.split('/')[0] for name in names} == {
        'process',
        'requests',
        'camera',
        'joints',
        'chunk',
        'instruction',
        'network',
        'disk',
        'memory',
        'checkpoint',
        'parameters',
        'clock',
        'command',
        'checks',
    }


@pytest.mark.parametrize(
    ('given', 'complaint'),
    [
        (['--filter', 'camera/none'], "no fault matches 'camera/none'"),
        (['--report', '/nowhere/R.json'], 'no folder /nowhere'),
    ],
)
def test_wrong_arguments_name_the_fix(given, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        run_faults.parse_arguments(given)
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


def test_old_options_still_work_with_a_warning(capsys):
    chosen = run_faults.parse_arguments(['--only', 'camera/*', '--keep'])
    assert list(chosen.filter) == ['camera/*'] and chosen.keep_logs
    warnings = capsys.readouterr().err
    assert 'use --filter' in warnings and 'use --keep-logs' in warnings
