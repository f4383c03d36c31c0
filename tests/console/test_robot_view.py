"""The robot that is drawn stands as the simulated one does."""

import json

import mujoco
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_console import robot_view
from wam_console.robot_view import RobotView
from wam_console.stack_status import describe_motion, describe_policy
from wam_msgs.msg import MotionStatus, PolicyStatus
from wam_policy.core.motion.trajectory import PlannedPath
from wam_policy.core.robot import embodiment
from wam_sim import messages
from wam_sim.physics import sim_robot
from wam_sim.physics.simulation import Simulation


@pytest.mark.parametrize('name', sim_robot.list_robots())
def test_bodies_and_tools_are_where_the_simulator_has_them(name):
    simulation = Simulation(sim_robot.load(name), seed=1)
    simulation.step(20)
    joints = simulation.joint_state()
    view = RobotView(simulation.robot.embodiment)
    measured = {
        **simulation.robot.embodiment.home,
        **dict(zip(joints.names, joints.position, strict=True)),
    }
    poses = view.compute_poses(measured)
    # a gripper's value is the mean of its fingers, so that single fingers differ a little
    for number, body in enumerate(view._bodies):
        body_name = view._model.body(body).name
        if 'object' not in body_name and body_name != 'world':
            wanted = simulation.data.body(body_name).xpos
            np.testing.assert_allclose(poses[number, :3], wanted, atol=2e-3, err_msg=body_name)
    commanded = simulation.robot.embodiment.commanded
    row = np.array([[measured[joint] for joint in commanded]])
    path = view.compute_tool_paths(PlannedPath(commanded, np.array([0]), row), measured)
    tools = [simulation.state().tools[hand.side] for hand in simulation.robot.hands]
    np.testing.assert_allclose(path[:, 0], tools, atol=2e-3)


@pytest.mark.parametrize('name', embodiment.list_robots())
def test_every_robot_is_drawn_also_without_the_simulator(name, monkeypatch):
    monkeypatch.setattr(robot_view.importlib.util, 'find_spec', lambda _: None)
    robot = embodiment.load_embodiment(name)
    view = RobotView(robot)
    scene = json.loads(json.dumps(view.scene))
    assert scene['shapes'] and all(shape['body'] < scene['bodies'] for shape in scene['shapes'])
    moved = {joint: value + 0.1 for joint, value in robot.home.items()}
    assert not np.allclose(view.compute_poses(robot.home), view.compute_poses(moved), atol=1e-3)


def test_objects_of_the_scene_are_markers_with_their_names():
    simulation = Simulation(sim_robot.load('yam'), seed=2)
    found = messages.make_objects(simulation.scene_geoms(), 5_000_000_000)
    names = [marker.text for marker in found.markers]
    assert sum(name.endswith(' cube') for name in names) == 3 and 'grey pad' in names
    cube = found.markers[0]
    body = simulation.data.body('cube_0')
    assert (cube.type, cube.scale.x) == (cube.CUBE, 0.05)
    place = cube.pose.position
    np.testing.assert_allclose([place.x, place.y, place.z], body.xpos)
    assert mujoco.mju_isZero(body.xpos) == 0


def test_numbers_that_json_cannot_hold_are_unknown():
    nan = float('nan')
    policy = PolicyStatus(
        stage_names=['total'], stage_p50_ms=[nan], stage_p99_ms=[float('inf')],
        camera_names=['a'], camera_age_ms=[nan], camera_rate_hz=[1.0], imagination_error=nan,
    )  # fmt: skip
    motion = MotionStatus(rows_left=nan, max_jerk_ratio=nan)
    text = json.dumps([describe_policy(policy), describe_motion(motion)], allow_nan=False)
    assert json.loads(text)[0]['stages'] == [['total', None, None]]
