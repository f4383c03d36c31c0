"""The expert's episodes as a data set: what only a simulator knows stands beside the rows."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from wam_learning.data import dataset_validation
from wam_learning.demonstrations import generate_demos
from wam_learning.demonstrations.dagger_policy import RollInPolicy
from wam_learning.demonstrations.demo_generator import (
    PIXEL,
    PLACE,
    SUPERVISED,
    DemoGenerator,
    Perturbations,
)
from wam_sim.physics import scene as scenes
from wam_sim.physics import sim_robot as robots
from wam_sim.tasks import task_families
from wam_sim.tasks.cartesian_motion import CartesianMotion
from wam_sim.tasks.scene_state import count_image_period_rows

ROBOT = robots.load('agibot_g1')


@pytest.fixture(scope='module')
def demo_generator():
    made = DemoGenerator(
        ROBOT, Perturbations(perturb_prob=1.0, random_start_prob=1.0, instruction_change_prob=0.0)
    )
    try:
        made.simulation.observe()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield made
    made.close()


def test_the_folder_is_a_data_set_with_labels(tmp_path, capsys):
    out = tmp_path / 'out'
    assert (
        generate_demos.main(
            [
                '--robot',
                'agibot_g1',
                '--out',
                str(out),
                '--episodes',
                '4',
                '--seed',
                '44',
                '--episodes-per-shard',
                '0',
                '--instruction-change-prob',
                '1',
            ]
        )
        == 0
    )
    assert 'in 4 episodes; ' in capsys.readouterr().out
    assert not [
        f for f in dataset_validation.find_issues(out, ROBOT.embodiment) if f.level == 'error'
    ]
    info = json.loads((out / 'meta/info.json').read_text())
    assert info['features'][SUPERVISED]['dtype'] == 'bool'
    assert info['features'][PIXEL] == {'dtype': 'float32', 'shape': [2], 'names': None}
    episodes = [json.loads(line) for line in (out / 'meta/episodes.jsonl').open()]
    assert [e['seed'] for e in episodes] == [44, 45, 46, 47]
    assert all(e['family'] in task_families.LEARNED_FAMILIES and e['success'] for e in episodes)
    assert any(len(e['tasks']) == 2 for e in episodes)  # the instruction changed
    table = pq.read_table(out / 'data/chunk-000/episode_000000.parquet')
    place = np.stack(table[PLACE].to_numpy())
    x_low, x_high, y_low, y_high = ROBOT.workspace
    assert ((place[0] > [x_low, y_low]) & (place[0] < [x_high, y_high])).all()


def test_rows_of_a_disturbance_are_no_example(demo_generator):
    rows = list(demo_generator.generate_episode(51, 'touch'))
    by_expert = np.array([labels[SUPERVISED] for _, labels in rows])
    assert by_expert[0] and by_expert[-1] and not by_expert.all()
    assert demo_generator.success


def test_arms_may_move_while_a_mark_is_shown_and_the_expert_waits_from_there(demo_generator):
    for seed in range(60, 68):  # 0.6 of them are disturbed so early
        rows = list(demo_generator.generate_episode(seed, 'recall'))
        until = 24 * int(np.ceil(demo_generator.simulation.task.mark_end_s / 0.8))
        foreign = np.array([not labels[SUPERVISED] for _, labels in rows[:until]])
        if foreign.any():
            break
    else:
        pytest.fail('nothing moved the arms early in any episode')
    targets = np.array([row.targets for row, _ in rows[:until]])
    moved = np.abs(np.diff(targets, axis=0)).max(1) > 1e-9
    assert moved[foreign[1:]].any() and not moved[~foreign[1:]].any()
    assert demo_generator.success


def test_pictures_come_at_their_rate_and_labels_point_at_the_cube(demo_generator):
    rows = list(demo_generator.generate_episode(52, 'touch'))
    for row, _ in rows:
        period = count_image_period_rows(ROBOT.embodiment)
        first = rows[row.index - row.index % period][0].observation
        assert row.observation.frames[0] is first.frames[0]
        assert row.observation.frames[0].rgb.shape == (120, 160, 3)
    labeled = [(row, labels[PIXEL]) for row, labels in rows if np.isfinite(labels[PIXEL]).all()]
    assert labeled
    row, pixel = labeled[0]
    color = np.array(
        scenes.PALETTE[
            demo_generator.simulation.scene.find_object(demo_generator.simulation.task.slot).color
        ]
    )
    seen = row.observation.frames[0].rgb[int(pixel[1] * 120), int(pixel[0] * 160)].astype(float)
    assert seen @ color / np.linalg.norm(seen) / np.linalg.norm(color) > 0.95


class HoldingRollInPolicy(RollInPolicy):
    """Hold still; record the calls."""

    def __init__(self):
        self.setpoint_times_ns, self.instructions, self.reset_count = [], [], 0

    def reset(self):
        self.reset_count += 1

    def observe(self, observation, instruction, position):
        self.instructions.append(instruction)

    def compute_setpoint(self, position, now_ns):
        self.setpoint_times_ns.append(now_ns)
        return position


def test_a_driver_takes_the_disturbances_place():
    driver = HoldingRollInPolicy()
    driven = DemoGenerator(
        ROBOT,
        Perturbations(perturb_prob=1.0, random_start_prob=0.0, instruction_change_prob=0.0),
        driver,
    )
    try:
        rows = list(driven.generate_episode(53, 'touch'))
    finally:
        driven.close()
    assert driver.reset_count == 1 and driver.setpoint_times_ns and driven.success
    assert set(driver.instructions) == {rows[0][0].instruction}
    assert len(driver.instructions) >= len(driver.setpoint_times_ns)
    others = [row.index for row, labels in rows if not labels[SUPERVISED]]
    assert len(others) == len(driver.setpoint_times_ns)
    assert others[0] == 1  # it drives from the start


@pytest.mark.parametrize('changed', [0.0, 1.0])
def test_with_patience_a_policy_drives_long_and_through_a_change(changed):
    driver = HoldingRollInPolicy()
    driven = DemoGenerator(
        ROBOT,
        Perturbations(
            perturb_prob=1.0,
            random_start_prob=0.0,
            instruction_change_prob=changed,
            policy_seconds=(3.0, 6.0),
        ),
        driver,
    )
    try:
        rows = list(driven.generate_episode(53, 'touch'))
    finally:
        driven.close()
    texts = [row.instruction for row, _ in rows]
    change = next((i for i, text in enumerate(texts) if text != texts[0]), 0)
    assert (change > 0) == bool(changed)
    others = [row.index for row, labels in rows if not labels[SUPERVISED]]
    assert others == list(range(1, len(others) + 1)) and driven.success and driven.expert_needed
    assert 3.0 <= (len(others) - change) * ROBOT.embodiment.step_dt_s <= 6.1


class ExpertRollInPolicy(HoldingRollInPolicy):
    """Move as the expert does, with a motion of its own."""

    player: DemoGenerator

    def compute_setpoint(self, position, now_ns):
        simulation = self.player.simulation
        if not self.setpoint_times_ns:
            self.mover = CartesianMotion(ROBOT, simulation.model)
            self.mover.reset(position)
        self.setpoint_times_ns.append(now_ns)
        return self.mover.step_toward(
            self.player.expert.compute_goal(simulation.state(), simulation.joint_state())
        )


def test_what_a_policy_does_by_itself_needs_no_expert():
    driver = ExpertRollInPolicy()
    driver.player = driven = DemoGenerator(
        ROBOT,
        Perturbations(
            perturb_prob=1.0,
            random_start_prob=0.0,
            instruction_change_prob=0.0,
            policy_seconds=(5.9, 6.0),
        ),
        driver,
    )
    try:
        rows = list(driven.generate_episode(53, 'touch'))
    finally:
        driven.close()
    assert driven.success and not driven.expert_needed and rows[-1][1][SUPERVISED]


def test_a_policy_drives_and_the_expert_finishes():
    robot = robots.load('agibot_g1')
    driven = DemoGenerator(
        robot,
        Perturbations(perturb_prob=1.0, random_start_prob=0.0, instruction_change_prob=0.0),
        generate_demos.load_roll_in_policy(robot, 'preset:tiny'),
    )
    try:
        rows = list(driven.generate_episode(57, 'touch'))
    finally:
        driven.close()
    targets = np.array([row.targets for row, _ in rows])
    others = [row.index for row, labels in rows if not labels[SUPERVISED]]
    assert others and len(others) < len(rows) - 1
    assert np.abs(np.diff(targets[: others[-1] + 1], axis=0)).max() > 0  # random, yet it moves


def test_the_program_lets_a_shipped_model_drive(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'wam_learning.demonstrations.generate_demos',
            '--robot',
            'agibot_g1',
            '--episodes',
            '1',
            '--seed',
            '77',
            '--episodes-per-shard',
            '0',
            '--perturb-prob',
            '1',
            '--policy',
            'mini',
            '--out',
            str(tmp_path / 'out'),
        ],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr


def test_held_out_combinations_are_not_played():
    for seed in range(60):
        scene = scenes.sample_scene(ROBOT, seed)
        family = generate_demos.choose_family(ROBOT, task_families.LEARNED_FAMILIES, seed)
        assert family is not None
        task = task_families.sample_task(family, scene, seed, task_families.TRAIN_SPLIT)
        assert not task_families.is_held_out(
            family, scene, scene.find_object(task.slot), task.side
        )


@pytest.mark.parametrize(
    'words, complaint',
    [
        (['--families', 'juggle'], 'no family juggle; choose from touch'),
        (['--perturb-prob', '2'], 'want a probability from 0 to 1'),
        (['--episodes', '0'], 'at least 1'),
        (['--policy', 'mini', '--policy-seconds', '2', '7'], 'want seconds from 0 to 6'),
        (['--policy', 'mini', '--policy-seconds', '3', '2'], 'want MIN no larger than MAX'),
        (['--policy', 'mini', '--policy-seconds', '2'], 'expected 2 arguments'),
        (['--policy-seconds', '2', '4'], 'needs --policy CHECKPOINT'),
        (['--only-interventions'], 'needs --policy CHECKPOINT'),
    ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, words, complaint):
    with pytest.raises(SystemExit):
        generate_demos.main(['--robot', 'yam', '--out', str(tmp_path / 'x'), *words])
    assert complaint in capsys.readouterr().err


def test_deprecated_flags_are_still_accepted(capsys):
    options = generate_demos._parse_arguments(
        ['--robot', 'yam', '--out', 'x', '--driver', 'mini', '--patience', '0.4,3.5', '--missed=1']
        + ['--disturbed', '0.1', '--displaced', '0.2', '--changed', '0.3', '--shard', '7']
    )
    assert options.policy == 'mini' and options.only_interventions
    assert options.policy_seconds == [0.4, 3.5] and options.episodes_per_shard == 7
    assert options.near_miss_prob == 1 and options.perturb_prob == 0.1
    assert options.random_start_prob == 0.2 and options.instruction_change_prob == 0.3
    assert capsys.readouterr().err.count('is deprecated') == 7


def test_a_scene_that_offers_nothing_is_passed_over(tmp_path, capsys):
    out, seed = tmp_path / 'out', 8_600_349
    assert generate_demos.choose_family(ROBOT, ('push',), seed) == 'push'
    assert generate_demos.choose_family(ROBOT, ('push',), seed + 1) is None
    words = [
        '--robot',
        'agibot_g1',
        '--families',
        'push',
        '--episodes-per-shard',
        '0',
        '--instruction-change-prob',
        '0',
    ]
    assert (
        generate_demos.main([*words, '--out', str(out), '--episodes', '2', '--seed', str(seed)])
        == 0
    )
    said = capsys.readouterr().out
    assert f'skipped seed {seed + 1}: its scene offers none of push' in said
    assert 'in 1 episodes; push 1 of 1' in said


def test_a_folder_that_is_there_stays(tmp_path, capsys):
    assert generate_demos.main(['--robot', 'yam', '--out', str(tmp_path)]) == 1
    assert 'exists already' in capsys.readouterr().err


def test_a_resumed_run_keeps_complete_shards_of_the_same_options(tmp_path, capsys):
    words = ['--robot', 'yam', '--out', str(tmp_path), '--episodes', '2', '--seed', '77']
    words += ['--episodes-per-shard', '1', '--workers', '1', '--resume']
    assert generate_demos.main(words) == 0
    shutil.rmtree(tmp_path / '001')
    written = tmp_path / '000' / 'meta' / 'provenance.json'
    before_ns = written.stat().st_mtime_ns
    assert generate_demos.main(words) == 0
    assert written.stat().st_mtime_ns == before_ns
    seed = json.loads((tmp_path / '001' / 'meta' / 'provenance.json').read_text())['seed']
    assert seed == 78
    capsys.readouterr()
    assert generate_demos.main([*words, '--perturb-prob', '0.1']) == 1
    complaint = capsys.readouterr().err
    assert 'perturb_prob 0.6, wanted is 0.1' in complaint and '000' in complaint


def test_a_scene_is_demonstrated_again_with_another_start(tmp_path, capsys):
    out = tmp_path / 'out'
    words = ['--robot', 'yam', '--out', str(out), '--episodes', '4', '--seed', '77']
    words += ['--episodes-per-shard', '2', '--workers', '1', '--random-start-prob', '1']
    assert generate_demos.main([*words, '--episodes-per-scene', '2']) == 0
    starts = []
    for shard, seed in ('000', 77), ('001', 78):
        episodes = [json.loads(line) for line in (out / shard / 'meta/episodes.jsonl').open()]
        assert [e['seed'] for e in episodes] == [seed, seed]
        assert episodes[0]['tasks'][0] == episodes[1]['tasks'][0]
        tables = (out / shard / 'data/chunk-000').glob('*.parquet')
        starts += [tuple(pq.read_table(table)['action'].to_numpy()[0]) for table in tables]
    assert len(set(starts)) == 4
    capsys.readouterr()
    with pytest.raises(SystemExit):
        generate_demos.main([*words, '--episodes-per-scene', '3'])
    assert '2: want a multiple of --episodes-per-scene 3' in capsys.readouterr().err


def test_sigterm_leaves_no_half_shard_and_no_player(tmp_path):
    out = tmp_path / 'out'
    whole = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'wam_learning.demonstrations.generate_demos',
            '--robot',
            'yam',
            '--episodes',
            '400',
            '--out',
            str(out),
            '--workers',
            '1',
        ]
    )
    try:
        for _ in range(600):
            if (out / '000.part').exists():
                break
            assert whole.poll() is None
            time.sleep(0.1)
        whole.send_signal(signal.SIGTERM)
        assert whole.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        whole.kill()
    assert not list(out.iterdir())  # the player was waited for, and cleaned up
