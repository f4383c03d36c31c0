"""Parameters of the simulator node, with default, range and description."""

from dataclasses import dataclass

from wam_policy.nodes.parameter_fields import TOPIC_NAME, parameter, validate_fields
from wam_sim.physics import sim_robot
from wam_sim.tasks import task_families


@dataclass(frozen=True, slots=True)
class SimParams:
    """Parameters of sim_node; an invalid value raises ValueError at start."""

    robot: str = parameter('agibot_g1', 'robot to simulate', choices=sim_robot.list_robots())
    task_family: str = parameter(
        task_families.ANY,
        'task family of every episode; any samples one, learned samples one of those that models '
        'are trained on',
        choices=(*task_families.GROUPS, *task_families.FAMILIES),
        deprecated_name='task',
    )
    task_split: str = parameter(
        task_families.ALL_SPLIT,
        'tasks to sample from: all combinations of words and places, only those in training, or '
        'only those held out',
        choices=task_families.TASK_SPLITS,
        deprecated_name='combinations',
    )
    instruction_topic: str = parameter(
        'wam/instruction',
        "topic of the robot's instruction; the timer of a cube's mark starts at the first one",
        pattern=TOPIC_NAME,
    )
    driver_status_topic: str = parameter(
        'wam/driver_status',
        'topic on which motion_node receives that the robot is simulated',
        pattern=TOPIC_NAME,
    )
    seed: int = parameter(0, 'seed of the first scene; episode n uses seed + n', low=0, high=2**31)
    camera_hz: float = parameter(
        15.0, 'images per camera and second of wall time', unit='Hz', low=1.0, high=60.0
    )
    camera_phase: float = parameter(
        1.0,
        'share of a period by which cameras are out of phase: 1 spreads them evenly as cameras '
        'that run freely, 0 triggers all at once',
        low=0.0,
        high=1.0,
    )
    camera_jitter: float = parameter(
        0.1, 'largest deviation of an image from its time, in periods', low=0.0, high=0.4
    )
    camera_noise: bool = parameter(
        True,
        'change a few pixels of every image by one step, as a sensor does; false: images of an '
        'unmoved scene are equal, and policy_node needs detect_frozen_images false',
    )
    image_width: int = parameter(320, 'width of every image', unit='pixels', low=32, high=640)
    image_height: int = parameter(
        0,
        "height of every image; 0: by the aspect ratio of the robot's cameras",
        unit='pixels',
        low=0,
        high=480,
    )
    publish_clock: bool = parameter(
        False, 'publish /clock and stamp with simulated time; other nodes need use_sim_time'
    )
    viewer: bool = parameter(False, 'open a window with the scene if there is a display')
    reset_arms: bool = parameter(
        False,
        'move the arms to their home positions instantly on sim/reset; disable motion first, '
        'because they jump',
    )

    __post_init__ = validate_fields
