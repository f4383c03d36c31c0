"""Record observations: images at the frame rate of the model, joint positions at each block.

Sources are the simulator, with arms that move slowly around their home position, or a bag that was
recorded on a robot. `./wam engine record-observations` runs this; `calibrate` reads it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'src' / package) for package in ('wam_policy', 'wam_sim')]

from wam_policy.command_line import CommandParser, add_value
from wam_policy.core.robot import embodiment
from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.workers.export_engine import RecordedObservations

if TYPE_CHECKING:
    from wam_sim.physics.simulation import Simulation

RANDOM_OFFSET_RAD = 0.25  # largest offset of a joint from its home position
# image per camera, joint positions [observed]
ObservationSample = tuple[dict[str, np.ndarray], np.ndarray]


def main() -> int:
    """Record observations and write them."""
    parser = CommandParser('./wam engine record-observations', __doc__)
    parser.add_argument('--embodiment', required=True, choices=embodiment.list_robots())
    parser.add_argument('--out', type=Path, required=True, help='.npz')
    parser.add_argument('--bag', type=Path, help='folder of a bag (default: simulate)')
    parser.add_argument('--instruction', default='', help='instruction of the bag')
    parser.add_argument('--blocks', type=int, default=12)
    add_value(parser, '--frames', 4, 'per block: 8 for the released models, 4 for the small ones')
    add_value(parser, '--hz', 5.0, 'frame rate')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    robot = embodiment.load_embodiment(options.embodiment)
    count = 1 + options.blocks * options.frames
    if options.bag:
        instruction, samples = options.instruction, read_bag(robot, options.bag, options.hz)
    else:
        instruction, samples = simulate(robot, options.hz, options.seed, count)
    seen = [sample for _, sample in zip(range(count), samples, strict=False)]
    if len(seen) <= options.frames:
        print(
            f'record-observations: {options.bag} has {len(seen)} complete frames, want '
            f'at least {1 + options.frames}',
            file=sys.stderr,
        )
        return 1
    stack_blocks(instruction, seen, options.frames).save(options.out)
    print(f'{options.out}: {len(seen)} frames of {len(seen[0][0])} cameras, {instruction!r}')
    return 0


def stack_blocks(
    instruction: str, samples: list[ObservationSample], frames_per_block: int
) -> RecordedObservations:
    """Cut samples into one frame and whole blocks."""
    samples = samples[: 1 + (len(samples) - 1) // frames_per_block * frames_per_block]
    views = {key: np.stack([pictures[key] for pictures, _ in samples]) for key in samples[0][0]}
    return RecordedObservations(
        instruction, views, np.stack([positions for _, positions in samples[::frames_per_block]])
    )


def simulate(
    robot: Embodiment, hz: float, seed: int, count: int
) -> tuple[str, Iterator[ObservationSample]]:
    """Return the instruction of a task and samples of its scene."""
    from wam_sim.physics import sim_robot as robots
    from wam_sim.physics.simulation import STEP_NS, Simulation

    simulation = Simulation(robots.load(robot.name), seed=seed)
    numbers, steps = np.random.default_rng(seed), round(1e9 / hz / STEP_NS)

    def generate_samples() -> Iterator[ObservationSample]:
        for number in range(count):
            if number % 10 == 0:
                command_random_positions(simulation, numbers)
            seen = simulation.observe()
            yield {frame.camera: frame.rgb for frame in seen.frames}, seen.joints.position
            simulation.step(steps)
        simulation.close()

    return simulation.task.instruction, generate_samples()


def command_random_positions(simulation: 'Simulation', rng: np.random.Generator) -> None:
    """Command every arm to positions near home, reached in four seconds."""
    from wam_policy.core.motion.jtc_emulator import TrajectoryPoints

    body = simulation.robot.embodiment
    for controller in body.controllers:
        rest = body.home_positions(controller.joints)
        limits = body.limits(controller.joints)
        goal = np.clip(
            rest + rng.uniform(-RANDOM_OFFSET_RAD, RANDOM_OFFSET_RAD, len(rest)),
            limits.lower,
            limits.upper,
        )
        still = np.zeros((1, len(rest)))
        reason = simulation.accept(
            controller.name,
            TrajectoryPoints(
                0, controller.joints, np.array([4_000_000_000]), goal[None], still, still
            ),
        )
        if reason is not None:
            raise RuntimeError(f'{controller.name}: {reason}')


def read_bag(robot: Embodiment, bag: Path, hz: float) -> Iterator[ObservationSample]:
    """Yield the newest images and joint positions at `hz`, once all have arrived."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    cameras = {camera.topic: camera.key for camera in robot.cameras}
    pictures: dict[str, np.ndarray] = {}
    joints: dict[str, float] = {}
    due_ns: int | None = None
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        wanted = [x for x in reader.connections if x.topic in (*cameras, '/joint_states')]
        for connection, stamp_ns, raw in reader.messages(wanted):
            # all messages up to the due time have been read
            if due_ns is not None and stamp_ns > due_ns:
                yield dict(pictures), np.array([joints[name] for name in robot.observed])
                due_ns = max(due_ns + round(1e9 / hz), stamp_ns)
            message: Any = reader.deserialize(raw, connection.msgtype)
            if connection.topic in cameras:
                pictures[cameras[connection.topic]] = decode_rgb(message)
            else:
                joints.update(zip(message.name, message.position, strict=True))
            whole = len(pictures) == len(cameras) and set(robot.observed) <= set(joints)
            if due_ns is None and whole:
                due_ns = stamp_ns


def decode_rgb(message: Any) -> np.ndarray:
    """Decode a sensor_msgs/Image with 8-bit colors; raises ValueError for other encodings."""
    if message.encoding not in ('rgb8', 'bgr8'):
        raise ValueError(f'image encoding {message.encoding}: want rgb8 or bgr8')
    rows = message.data.reshape(message.height, message.step)[:, : 3 * message.width]
    picture = rows.reshape(message.height, message.width, 3)
    return np.ascontiguousarray(picture[..., ::-1] if message.encoding == 'bgr8' else picture)


if __name__ == '__main__':
    sys.exit(main())
