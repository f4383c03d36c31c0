"""Contact is found where it is: the simulator's frames, the answer of looking at every row."""

import mujoco
import numpy as np
import pytest

from wam_policy.core.robot import limits
from wam_policy.core.robot.embodiment import ROBOTS_DIR, Embodiment, list_robots, load_embodiment
from wam_policy.mujoco_collision import MujocoCollisionChecker
from wam_sim.physics import collision, mjcf_model
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.simulation import compile_model
from wam_sim.tasks.inverse_kinematics import ArmIk
from wam_sim.tasks.workspace_map import FORWARD_DOWN

SIMULATED = robots.list_robots()


def state_only_home(robot: Embodiment) -> np.ndarray:
    return robot.home_positions(robot.observed[len(robot.commanded) :])


def find_first_contact_by_brute_force(
    guard: MujocoCollisionChecker, robot: Embodiment, path: np.ndarray
) -> int | None:
    """Look at every row: the first that is nearer than allowed and than the first row."""
    allowed, walls_allowed = guard.min_distances, None
    for row, posture in enumerate(path):
        pairs, gaps, walls = guard.compute_distances(
            guard.to_qpos(posture[None], state_only_home(robot))[0]
        )
        if walls_allowed is None:
            np.minimum.at(allowed, pairs, gaps)
            walls_allowed = np.minimum(walls, 0.0)
        elif (gaps < allowed[pairs] - 1e-6).any() or (walls < walls_allowed - 1e-6).any():
            return row
    return None


@pytest.mark.parametrize('name', SIMULATED)
def test_the_model_stands_exactly_where_the_simulated_robot_does(name):
    robot = robots.load(name)
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    mjcf_model.add_robot(spec, robot, {})
    simulated = spec.compile()
    ours = mujoco.MjModel.from_xml_path(str(ROBOTS_DIR / name / 'collision.xml'))
    rng, pair = np.random.default_rng(0), (mujoco.MjData(simulated), mujoco.MjData(ours))
    for _ in range(20):
        for joint in range(ours.njnt):
            value = rng.uniform(*ours.jnt_range[joint])
            for data in pair:
                data.joint(ours.joint(joint).name).qpos[0] = value
        for one, data in zip((simulated, ours), pair, strict=True):
            mujoco.mj_kinematics(one, data)
        for number in range(1, ours.nbody):
            link = ours.body(number).name
            for field in ('xpos', 'xmat'):
                there, here = (getattr(data.body(link), field) for data in pair)
                assert np.abs(there - here).max() < 1e-6, link


@pytest.mark.parametrize('name', SIMULATED)
def test_the_file_is_what_the_simulated_robot_says(name):
    kept = (ROBOTS_DIR / name / 'collision.xml').read_text(encoding='utf-8')
    assert kept == collision.build_collision_xml(robots.load(name)), (
        f'make it again: python -m wam_sim.physics.collision {name}'
    )


@pytest.mark.parametrize('name', list_robots())
def test_every_robot_has_a_model_with_its_joints_and_is_free_at_rest(name):
    robot = load_embodiment(name)
    guard = MujocoCollisionChecker(robot)
    rest = robot.home_positions(robot.commanded)
    pairs, gaps, walls = guard.compute_distances(
        guard.to_qpos(rest[None], state_only_home(robot))[0]
    )
    assert (gaps >= guard.min_distances[pairs]).all() and walls.min() > 0.0
    for row, joint in enumerate(robot.commanded):
        moved = rest.copy()
        moved[row] += 0.05 if joint != 'gripper' else 0.0
        changed = guard.to_qpos(np.stack([rest, moved]), state_only_home(robot))
        assert (np.ptp(changed, axis=0).max() > 0.0) or joint == 'gripper', joint


def test_the_arm_of_droid_is_where_its_maker_says():
    robot = load_embodiment('droid')
    guard = MujocoCollisionChecker(robot)
    guard.compute_distances(
        guard.to_qpos(robot.home_positions(robot.commanded)[None], np.empty(0))[0]
    )
    flange = guard.link_position('robotiq_85_base_link')
    assert flange == pytest.approx([0.35970, 0.0, 0.75 + 0.48994], abs=1e-5)


@pytest.mark.parametrize('name', list_robots())
def test_the_search_finds_what_looking_at_every_row_finds(name):
    robot, rng, hits = load_embodiment(name), np.random.default_rng(3), 0
    guard, bounds = MujocoCollisionChecker(robot), limits.limits_with_margin(robot)
    for _ in range(40):
        ends = np.clip(
            robot.home_positions(robot.commanded)
            + rng.normal(size=(3, len(bounds.names))) * rng.choice([0.1, 0.4, 1.0]),
            bounds.lower,
            bounds.upper,
        )
        share = np.linspace(0, 1, 40)[:, None]
        path = np.concatenate([a + share * (b - a) for a, b in zip(ends, ends[1:], strict=False)])
        found = guard.find_first_contact(path, state_only_home(robot))
        expected = find_first_contact_by_brute_force(guard, robot, path)
        assert (found.row if found else None) == expected
        hits += found is not None
    assert 5 < hits < 38  # both answers were asked for


@pytest.mark.parametrize('name', list_robots())
def test_far_from_everything_a_few_looks_settle_a_path(name):
    robot = load_embodiment(name)
    guard, rest = MujocoCollisionChecker(robot), robot.home_positions(robot.commanded)
    guard.query_count = 0
    path = rest + np.linspace(0, 0.02, 100)[:, None]
    assert (
        guard.find_first_contact(path, state_only_home(robot)) is None and guard.query_count <= 25
    )


def make_reaching_positions(
    name: str, height_m: float
) -> tuple[MujocoCollisionChecker, Embodiment, list[np.ndarray]]:
    """Return postures of the first arm over its own half of the workspace."""
    simulated, robot = robots.load(name), load_embodiment(name)
    rest = robot.home_positions(robot.commanded)
    held = dict(zip(robot.observed[len(robot.commanded) :], state_only_home(robot), strict=True))
    arm = ArmIk(simulated, compile_model(simulated, held), simulated.hand_sides[0])
    columns = [robot.commanded.index(joint) for joint in arm.names]
    x_low, x_high, _, y_high = simulated.workspace
    postures = []
    for x in np.linspace(x_low, x_high, 4):
        for y in np.linspace(0.03, y_high, 4):  # further across is the head
            point = np.array([x, y, simulated.table.height_m + height_m])
            posture = rest.copy()
            posture[columns] = arm.solve(
                point, FORWARD_DOWN, rest[columns], rest[columns]
            ).joints_rad
            postures.append(posture)
    return MujocoCollisionChecker(robot), robot, postures


@pytest.mark.parametrize('name', SIMULATED)
@pytest.mark.parametrize('height_m', [0.025, 0.035, 0.14])
def test_what_tasks_need_on_the_table_is_not_blocked(name, height_m):
    guard, robot, postures = make_reaching_positions(name, height_m)
    for posture in postures:
        for opening in (0.0, 1.0):
            posture[limits.gripper_mask(robot)] = opening
            pairs, gaps, walls = guard.compute_distances(
                guard.to_qpos(posture[None], state_only_home(robot))[0]
            )
            near = gaps - guard.min_distances[pairs]
            assert walls.min() > 0.0 and near.min(initial=1.0) > 0.0, guard.pair_name(
                int(pairs[near.argmin()])
            )


@pytest.mark.parametrize('name', SIMULATED)
def test_the_way_down_to_the_table_ends_above_it_unless_there_is_none(name):
    guard, robot, (high, *_) = make_reaching_positions(name, 0.14)
    _, _, (low, *_) = make_reaching_positions(name, -0.06)
    path = high + np.linspace(0, 1, 60)[:, None] * (low - high)
    contact = guard.find_first_contact(path, state_only_home(robot))
    assert contact is not None and contact.pair.endswith('and table')
    assert (
        MujocoCollisionChecker(robot, table=False).find_first_contact(
            path[:50], state_only_home(robot)
        )
        is None
    )
    assert contact.row < 50
    raised = MujocoCollisionChecker(robot, table_height_m=0.78).find_first_contact(
        path, state_only_home(robot)
    )
    assert raised.row < contact.row
    # it may leave again from where it must not go on
    assert guard.find_first_contact(path[contact.row :][::-1], state_only_home(robot)) is None
    assert guard.find_first_contact(path[contact.row + 3 :: -1], state_only_home(robot)) is None


def test_a_lifted_or_bent_body_moves_the_arms_with_it():
    robot = load_embodiment('agibot_g1')
    guard, bent = MujocoCollisionChecker(robot), state_only_home(robot)
    path = np.tile(robot.home_positions(robot.commanded), (2, 1))
    low = bent.copy()
    low[robot.observed.index('idx01_body_joint1') - len(robot.commanded)] = 0.0
    first, second = (guard.to_qpos(path, held)[0] for held in (bent, low))
    guard.compute_distances(first)
    before = guard.link_position('gripper_l_base_link')
    guard.compute_distances(second)
    assert before[2] - guard.link_position('gripper_l_base_link')[2] == pytest.approx(0.3)


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    robot = load_embodiment('yam')
    with pytest.raises(ValueError, match='python -m wam_sim.physics.collision yam'):
        MujocoCollisionChecker(robot, folder=tmp_path)
    (tmp_path / 'yam').mkdir()
    (tmp_path / 'yam' / 'collision.xml').write_text('<mujoco/>')
    with pytest.raises(ValueError, match='has no joint left_joint1'):
        MujocoCollisionChecker(robot, folder=tmp_path)
    with pytest.raises(ValueError, match='below the foot of the table'):
        MujocoCollisionChecker(robot, table_height_m=-0.5)
