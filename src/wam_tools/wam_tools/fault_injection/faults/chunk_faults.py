"""Faults of chunks between policy and motion, and a second policy that publishes chunks."""

import time

from wam_msgs.msg import ActionChunk
from wam_policy.nodes import message_conversion, qos
from wam_tools.fault_injection import stub_worker
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.faults.relay_faults import make_relay_faults, make_relay_injection
from wam_tools.fault_injection.stack_observer import poll_until
from wam_tools.sim_operator import make_chunk
from wam_tools.stack_launch import StackLaunchError

COMPETING_RATE_HZ, COMPETING_OFFSET_RAD = 10.0, 0.1


def start_session(bench: FaultTestBench) -> None:
    """Start a session and move in it; StackLaunchError if it does not begin."""
    before = bench.client.policy.session
    seen_ns = message_conversion.to_ns(bench.client.policy.header.stamp)
    bench.instruction = (
        f'{bench.instruction} again'
        if not bench.instruction.endswith('again')
        else bench.instruction[:-6]
    )
    bench.client.publish_instruction(bench.instruction)
    if not poll_until(
        lambda: bench.client.policy.session != before and bench.ensure_moving(), 20.0
    ):
        raise StackLaunchError('no new session')
    bench.previous_session = before, seen_ns


def add_old_session_chunks(bench: FaultTestBench) -> None:
    """Send a chunk of the previous session after every chunk."""
    values = list(bench.previous_session)
    make_relay_injection('chunks', corruption='session', values=values)(bench)


def publish_competing_chunks(bench: FaultTestBench) -> None:
    """Publish valid chunks of another session in addition to those of the policy."""
    watch, robot = bench.client, bench.robot
    out = watch.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
    count = [0]

    def publish() -> None:
        count[0] += 1
        now_ns = watch.now_ns()
        targets = stub_worker.compute_wave_targets(robot, now_ns) + COMPETING_OFFSET_RAD
        chunk = make_chunk(robot, 'rival', count[0], now_ns, targets)
        out.publish(message_conversion.chunk_to_msg(chunk, robot.name, now_ns, trained=False))

    timer = watch.create_timer(1.0 / COMPETING_RATE_HZ, publish)

    def end() -> None:
        watch.destroy_timer(timer)
        time.sleep(0.2)  # for a publish in progress
        watch.destroy_publisher(out)

    bench.undo.callback(end)


FAULTS = (
    *make_relay_faults('chunk'),
    Fault(
        'chunk/of an old session',
        ('chunks', 'words'),
        add_old_session_chunks,
        r'rejection: .*old session',
        False,
        prepare=start_session,
    ),
    Fault(
        'chunk/a second policy publishes',
        ('chunks',),
        publish_competing_chunks,
        r'motion: .*two policies publish',
        True,
    ),
)
