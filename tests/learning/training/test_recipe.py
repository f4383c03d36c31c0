"""The recipe is made of commands that exist, in an order in which each finds what it needs."""

import time
from pathlib import Path

import pytest

from wam_learning.demonstrations import generate_demos
from wam_learning.training import recipe, train

MAX_COMMANDS = 8


def make_step(name, code, inputs=(), cores=1):
    return recipe.Step(name, inputs, cores, 'none', (code,))


def test_every_step_finds_what_it_needs_and_parses(tmp_path):
    written = set()
    steps = recipe.list_steps(1.0)
    assert len(steps) <= MAX_COMMANDS
    for step in steps:
        arguments = step.make_command(tmp_path)[2:]
        if step.module == recipe.TRAIN_MODULE:
            chosen = train.parse_arguments(arguments)
            assert chosen.steps or chosen.autoencoder_steps, 'minutes depend on the machine'
            needed = [*chosen.data, *map(Path, filter(None, [chosen.init]))]
        else:
            chosen = generate_demos._parse_arguments(arguments)
            assert chosen.resume
            needed = [Path(chosen.policy)] if chosen.policy else []
        assert {path.name for path in needed} == set(step.inputs) <= written, step.name
        assert all(path.parent == tmp_path for path in needed)
        assert chosen.out == tmp_path / step.name
        written.add(step.name)
    assert {'mini', 'mini_yam'} <= written


def test_a_recipe_stops_where_a_step_fails_and_continues_there(tmp_path, monkeypatch, capfd):
    ran, failing = [], {'start'}

    class Process:
        def __init__(self, command, **_):
            self.name = Path(command[-1]).name
            ran.append(self.name)

        def poll(self):
            return 3 if self.name in failing else 0

        def terminate(self):
            pass

        def wait(self):
            pass

    monkeypatch.setattr(recipe.subprocess, 'Popen', Process)
    monkeypatch.setattr(recipe, 'POLL_S', 0.0)
    assert recipe.main(['--out', str(tmp_path), '--scale', '0.01']) == 3
    assert ran == ['demos', 'autoencoder', 'demos_yam', 'start']
    assert 'start exited with 3' in capfd.readouterr().err
    failing.clear()
    assert recipe.main(['--out', str(tmp_path), '--scale', '0.01']) == 0
    assert ran[4:6] == ['start', 'joint'] and {'mini', 'mini_yam'} == set(ran[-2:])


def test_steps_run_side_by_side_only_where_inputs_and_cores_allow(tmp_path, monkeypatch):
    intervals = {}
    monkeypatch.setattr(recipe, 'POLL_S', 0.01)

    class Process:
        def __init__(self, command, **_):
            self.name, self.polls = Path(command[-1]).name, 0
            intervals[self.name] = [time.monotonic(), None]

        def poll(self):
            self.polls += 1
            if self.polls < 5:
                return None
            intervals[self.name][1] = time.monotonic()
            return 0

    monkeypatch.setattr(recipe.subprocess, 'Popen', Process)
    steps = [
        make_step('both', '', cores=2),
        make_step('left', '', ('both',)),
        make_step('right', '', ('both',)),
        make_step('wide', '', ('both',), cores=3),
        make_step('last', '', ('left', 'right', 'wide')),
    ]
    recipe.run_steps(steps, tmp_path, 2)

    def overlap(a, b):
        return intervals[a][0] < intervals[b][1] and intervals[b][0] < intervals[a][1]

    assert overlap('left', 'right')
    alone = ('both', 'wide', 'last')
    assert not any(overlap(a, b) for a in alone for b in intervals if a != b)


def test_a_failed_step_terminates_the_others_and_says_where_its_output_is(tmp_path, monkeypatch):
    marker = tmp_path / 'survived'
    slow = f'import time, pathlib; time.sleep(60); pathlib.Path({str(marker)!r}).touch()'
    monkeypatch.setattr(recipe.Step, 'make_command', lambda step, _: ['-c', *step.arguments])
    with pytest.raises(recipe.RecipeFailed, match=r'bad exited with 1, see .*bad\.log'):
        recipe.run_steps(
            [make_step('slow', slow), make_step('bad', 'raise SystemExit(1)')], tmp_path, 2
        )
    assert not marker.exists()


@pytest.mark.parametrize('wrong', [['--scale', '0'], ['--scale', '2'], ['--workers', '0']])
def test_wrong_numbers_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        recipe.main(['--out', str(tmp_path), *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_deprecated_flags_are_still_accepted(tmp_path, capsys):
    assert recipe.main(['--out', str(tmp_path), '--share', '0.5', '--show']) == 0
    shown = capsys.readouterr()
    assert shown.err.count('is deprecated') == 2
    assert '--episodes=2400' in shown.out and not list(tmp_path.iterdir())
