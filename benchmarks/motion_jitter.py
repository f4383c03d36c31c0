"""Measure the lateness of motion_node's control loop while all cores are loaded.

Run from the repository root: ./wam shell -c 'python benchmarks/motion_jitter.py [--json FILE]'.
The node runs with its executor and threads as in the program. Another process simulates a robot
whose controllers report their state at 50 Hz, and a policy that sends a chunk every 140 ms; one
load process per core runs at the same time. The lateness of every tick after a warm-up counts.
"""

import multiprocessing
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import rclpy
from control_msgs.msg import JointTrajectoryControllerState
from trajectory_msgs.msg import JointTrajectory

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import record
from wam_msgs.msg import ActionChunk
from wam_policy.core.motion.jtc_emulator import TrajectoryFollower
from wam_policy.core.motion.motion_state import MotionState
from wam_policy.core.robot import embodiment, limits, safety_checks
from wam_policy.core.types import Chunk, JointState
from wam_policy.nodes import message_conversion, qos
from wam_policy.nodes.motion import control_loop
from wam_policy.nodes.motion.motion_node import MotionNode
from wam_policy.nodes.run_node import ExecutorThread
from wam_sim import messages
from wam_tools.sim_operator import make_chunk

DOMAIN_ID = 70 + os.getpid() % 20
START_TIMEOUT_S, WARM_UP_S = 60.0, 5.0
CHUNK_PERIOD_S, REPORT_PERIOD_S = 0.14, 0.02


def main() -> int:
    """Measure, print, write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--embodiment', default='agibot_g1', choices=embodiment.list_robots())
    parser.add_argument('--seconds', type=float, default=30.0, help='(default: %(default)s)')
    parser.add_argument(
        '--load-processes',
        '--burners',  # the old name, for one release
        dest='burners',
        type=int,
        default=os.cpu_count() or 1,
        help='processes that load the CPU (default: one per core)',
    )
    options = parser.parse_args()
    before = [round(x, 2) for x in os.getloadavg()]
    spawn = multiprocessing.get_context('spawn')
    beside = [spawn.Process(target=burn_cpu, daemon=True) for _ in range(options.burners)]
    for process in beside:
        process.start()
    # inherited by the process that simulates the robot
    real_time = control_loop.set_realtime_priority()
    beside.append(
        spawn.Process(
            target=run_robot_and_policy, args=(options.embodiment, DOMAIN_ID), daemon=True
        )
    )
    beside[-1].start()
    try:
        row = {**measure_lateness(options.embodiment, options.seconds), 'real time': real_time}
    finally:
        for process in beside:
            process.terminate()
            process.join()
    record.show(
        options.json,
        [row],
        question='lateness of the motion loop',
        burners=options.burners,
        load_average_before=before,
    )
    return 0


def measure_lateness(robot_name: str, seconds: float) -> dict[str, object]:
    values = (
        f'embodiment:={robot_name}',
        'enable_motion:=true',
        f'accept_missing:=[{", ".join(safety_checks.CHECKS)}]',  # the robot here reports little
    )
    context = rclpy.Context()
    rclpy.init(
        context=context,
        domain_id=DOMAIN_ID,
        args=['--ros-args', *(word for value in values for word in ('-p', value))],
    )
    node = MotionNode(context=context)
    spinning = ExecutorThread([node])
    try:
        node.trigger_configure()
        node.trigger_activate()
        if node._active is None:
            raise SystemExit('motion_node could not be activated: its log above says why')
        loop = node._active.control_loop
        waiting_s = time.monotonic()
        while node._take_snapshot().state is not MotionState.TRACKING:
            if time.monotonic() - waiting_s > START_TIMEOUT_S:
                raise SystemExit(
                    f'no motion within {START_TIMEOUT_S:g} s: {node._take_snapshot().reason}'
                )
            time.sleep(0.1)
        time.sleep(WARM_UP_S)
        loop._lateness_s.clear()
        late, began_ticks = [], loop.late_ticks
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:  # the loop keeps ten seconds
            time.sleep(min(5.0, max(0.0, end_s - time.monotonic())))
            late += [loop._lateness_s.popleft() for _ in range(len(loop._lateness_s))]
        status = node._take_snapshot()
    finally:
        spinning.stop()
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
    p50, p99, most = np.percentile(np.array(late) * 1e3, [50, 99, 100])
    return {
        'robot': robot_name,
        'ticks': len(late),
        'ms p50': round(p50, 3),
        'ms p99': round(p99, 3),
        'ms max': round(most, 3),
        'late ticks': loop.late_ticks - began_ticks,
        'chunks executed': status.counters.accepted,
        'state': status.state.name,
        'executor': 'EventsExecutor, the loop a thread of its own',
    }


def burn_cpu() -> None:
    """Load one core until terminated."""
    while True:
        sum(range(10_000))


def make_wave_chunk(robot: embodiment.Embodiment, sequence: int, stamp_ns: int) -> Chunk:
    """Return a chunk whose arm joints swing by 0.16 rad around home with a period of 2 s."""
    rest = robot.home_positions(robot.commanded)
    t_s = (stamp_ns / 1e9 + np.arange(robot.horizon)[:, None] * robot.step_dt_s) % 1000
    amplitude = np.where(limits.gripper_mask(robot), 0.0, 0.08)
    rows = rest + amplitude * (1 - np.cos(np.pi * t_s))
    return make_chunk(robot, 'one', sequence, stamp_ns, rows)


def run_robot_and_policy(robot_name: str, domain_id: int) -> None:
    """Simulate the robot and the policy."""
    robot = embodiment.load_embodiment(robot_name)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = rclpy.create_node('around', context=context)
    rest, lock = robot.home_positions(robot.commanded), threading.Lock()
    followers = [
        TrajectoryFollower(c.joints, rest[[robot.commanded.index(j) for j in c.joints]])
        for c in robot.controllers
    ]
    order = [robot.commanded.index(j) for c in robot.controllers for j in c.joints]
    joints = node.create_publisher(message_conversion.JointStateMsg, '/joint_states', qos.JOINTS)
    chunks = node.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)

    def now_ns() -> int:
        return node.get_clock().now().nanoseconds

    def accept_trajectory(number: int, msg: JointTrajectory) -> None:
        with lock:
            followers[number].accept(msg, now_ns())

    for number, controller in enumerate(robot.controllers):
        node.create_subscription(
            JointTrajectory,
            controller.topic,
            partial(accept_trajectory, number),
            qos.TRAJECTORY,
        )

    def on_robot_timer() -> None:
        at, position = now_ns(), np.empty(len(robot.commanded))
        with lock:
            position[order] = np.concatenate([f.sample(at).position for f in followers])
        joints.publish(
            message_conversion.joint_state_to_msg(JointState(at, robot.commanded, position))
        )

    reports = [
        node.create_publisher(JointTrajectoryControllerState, c.state_topic, qos.JOINTS)
        for c in robot.controllers
    ]

    def on_report_timer() -> None:
        at = now_ns()
        with lock:
            states = [(f.names, f.sample(at)) for f in followers]
        for out, (names, state) in zip(reports, states, strict=True):
            rows = np.stack([state.position, state.velocity, state.acceleration])
            out.publish(messages.make_controller_state(at, names, rows, rows[:2]))

    sequence = iter(range(10**9))

    def on_chunk_timer() -> None:
        chunk = make_wave_chunk(robot, next(sequence), now_ns() - 80_000_000)
        chunks.publish(message_conversion.chunk_to_msg(chunk, robot.name, now_ns(), False))

    node.create_timer(0.01, on_robot_timer)
    node.create_timer(REPORT_PERIOD_S, on_report_timer)
    node.create_timer(CHUNK_PERIOD_S, on_chunk_timer)
    spinning = ExecutorThread([node])
    threading.Event().wait()
    spinning.stop()


if __name__ == '__main__':
    sys.exit(main())
