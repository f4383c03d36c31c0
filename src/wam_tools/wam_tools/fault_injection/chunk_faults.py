"""Faults of chunks on their way to motion, and a second policy that publishes some."""

import time

import numpy as np

from wam_msgs.msg import ActionChunk
from wam_policy.core.types import Chunk
from wam_policy.nodes import message_conversion, qos
from wam_tools.fault_injection import stub_worker
from wam_tools.fault_injection.fault import Bench, Fault
from wam_tools.fault_injection.sensor_faults import spoil
from wam_tools.fault_injection.stack_observer import NoStack, until

LATE_S = 1.2  # a chunk is over after 0.8 s
REFUSED = r'rejection: .*'
# what -> trick, what motion says, whether the joints rest
CHUNKS = {
    'twice each': ('duplicate', REFUSED + r'came after', False),
    'in wrong order': ('disorder', REFUSED + r'came after', False),
    'not a number': ('poison', REFUSED + r'not finite', True),
    'of another horizon': ('shorten', REFUSED + r'positions, want', True),
    'of other joints': ('misname', REFUSED + r'elbow', True),
    # what does not decode arrives as a message of zeros, or not at all
    'garbage bytes': ('garbage', REFUSED + r'step_dt is 0|motion: .*underrun', True),
}
RIVAL_HZ, RIVAL_RAD = 10.0, 0.1


def late(bench: Bench) -> None:
    bench.stack.tell('chunks', delay_s=LATE_S)


def from_old_session(bench: Bench) -> None:
    """Open a session and let every chunk be followed by one of the session before."""
    before, seen_ns = (
        bench.watch.policy.session,
        message_conversion.ns(bench.watch.policy.header.stamp),
    )
    bench.words = f'{bench.words} again' if not bench.words.endswith('again') else bench.words[:-6]
    bench.watch.say(bench.words)
    if not until(lambda: bench.watch.policy.session != before and bench.driving(), 20.0):
        raise NoStack('no new session')
    bench.stack.tell('chunks', trick='session', values=[before, seen_ns])


def rival(bench: Bench) -> None:
    """Publish chunks of our own beside the policy's: well formed and not asked for."""
    watch, robot = bench.watch, bench.robot
    out = watch.node.create_publisher(ActionChunk, 'action_chunk', qos.CHUNK)
    count = [0]

    def publish() -> None:
        count[0] += 1
        now_ns = watch.node.get_clock().now().nanoseconds
        targets = stub_worker.waved(robot, now_ns) + RIVAL_RAD
        chunk = Chunk(
            now_ns,
            'rival',
            count[0],
            robot.step_dt_s,
            robot.commanded,
            targets,
            np.array(targets[0]),
            robot.contract,
            {},
        )
        out.publish(message_conversion.chunk_message(chunk, robot.name, now_ns, trained=False))

    timer = watch.node.create_timer(1.0 / RIVAL_HZ, publish)

    def end() -> None:
        watch.node.destroy_timer(timer)
        time.sleep(0.2)  # a publish under way
        watch.node.destroy_publisher(out)

    bench.undo['rival'] = end


FAULTS = (
    Fault(
        'chunk/1.2 s late',
        ('chunks',),
        late,
        lambda bench: bench.stack.tell('chunks'),
        REFUSED + r'late|motion: .*underrun',
        True,
    ),
    *(
        Fault(
            f'chunk/{what}', ('chunks',), detect=detect, rests=rests, **spoil('chunks', trick, [])
        )
        for what, (trick, detect, rests) in CHUNKS.items()
    ),
    Fault(
        'chunk/of an old session',
        ('chunks', 'words'),
        from_old_session,
        lambda bench: bench.stack.tell('chunks'),
        REFUSED + r'old session',
        False,
    ),
    Fault(
        'chunk/a second policy publishes',
        ('chunks',),
        rival,
        lambda bench: bench.undo.pop('rival')(),
        r'motion: .*two policies publish',
        True,
    ),
)
