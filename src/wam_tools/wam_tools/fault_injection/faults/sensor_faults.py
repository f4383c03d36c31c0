"""Faults of cameras and joint states, injected by the relay between robot and stack."""

from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.fault import Fault, FaultTestBench

STALE_OBSERVATION = r'policy: STALE_OBSERVATION.*{key}'
# fault -> corruption, arguments, report ({key}: the camera), whether the joints must rest
CAMERA_CORRUPTIONS = {
    'dropped': ('lose', [1.0], STALE_OBSERVATION, True),
    'frozen': ('freeze', [], STALE_OBSERVATION, True),
    'frozen under new stamps': ('stick', [], STALE_OBSERVATION + '.*same picture', True),
    'black': ('blacken', [], STALE_OBSERVATION + '.*one color', True),
    'slowed to 0.5 Hz': ('slow', [30], STALE_OBSERVATION, None),
    'stamped 0.4 s late': ('shift', [-0.4], STALE_OBSERVATION, True),
    'stamped 0.4 s ahead': ('shift', [0.4], r'policy: STALE.*{key}.*(future|apart)', True),
    'halved in size': ('resize', [], r'policy: .*{key} changed from|session: ', None),
    'in another encoding': ('recode', [], r"policy: .*{key}.*encoding 'mono16'", True),
    'cut short': ('cut', [], r'policy: .*{key}.*bytes of data', True),
    'garbage bytes': ('garbage', [], STALE_OBSERVATION, True),
}
NO_JOINT_STATE = r'motion: .*no joint state for more than'
JOINT_STATE_CORRUPTIONS = {
    'dropped': ('lose', [1.0], NO_JOINT_STATE, True, False),
    'frozen': ('freeze', [], NO_JOINT_STATE, True, False),
    'stuck under new stamps': (
        'stick',
        [],
        r'motion: PROTECTIVE_STOP.*from its command',
        True,
        True,
    ),
    'not a number': ('nan', [], r'policy: .*not finite', True, False),
    'in two parts': ('split', [], None, False, False),
    'in degrees': ('degrees', [], r'motion: .*looks like degrees', True, False),
    'gripper effort not a number': ('nan effort', [], None, False, False),
    'effort beyond its limit': (
        'large effort',
        [],
        r'motion: PROTECTIVE_STOP.*pushes with 1000.0',
        True,
        True,
    ),
    'effort beyond its limit next to one that is not a number': (
        'large and nan effort',
        [],
        r'motion: PROTECTIVE_STOP.*pushes with 1000.0',
        True,
        True,
    ),
    'at 60 rad': ('far', [], r'motion: .*outside .* by more than', True, False),
    'gripper in millimeters': (
        'millimeters',
        [],
        r'motion: .*looks like millimeters',
        True,
        False,
    ),
    'renamed': ('rename', [], r'policy: .*missing', True, False),
    'reordered': ('reorder', [], None, False, False),
    'two joints missing': ('omit', [], r'policy: .*missing', True, False),
    'slowed to 5 Hz': ('slow', [20], NO_JOINT_STATE, True, False),
    'stamped 0.4 s late': ('shift', [-0.4], NO_JOINT_STATE, True, False),
    'stamped 0.4 s ahead': (
        'shift',
        [0.4],
        r'policy: .*joint states.*future|' + NO_JOINT_STATE,
        True,
        False,
    ),
    'garbage bytes': ('garbage', [], NO_JOINT_STATE, True, False),
}
NOTES = {
    'in two parts': 'harmless: they are merged by name; the second one comes 30 ms later',
    'gripper effort not a number': 'harmless: the efforts of the arms are judged without it',
    'reordered': 'harmless: joints are matched by name',
    'halved in size': 'the memory restarts with images of the new size',
}


def make_corruption_actions(route: str, corruption: str, values: list) -> dict:
    """Return injection and removal of a corruption on one route."""

    def inject(bench: FaultTestBench) -> None:
        bench.stack.configure_route(route, corruption=corruption, values=values)

    return {'inject': inject, 'remove': lambda bench: bench.stack.configure_route(route)}


def make_camera_faults(robot: Embodiment) -> tuple[Fault, ...]:
    """Return every fault of every camera of a robot."""
    return tuple(
        Fault(
            f'camera/{camera.key} {what}',
            (camera.key,),
            detect=detect and detect.format(key=camera.key),
            rests=rests,
            note=NOTES.get(what, ''),
            **make_corruption_actions(camera.key, corruption, values),
        )
        for what, (corruption, values, detect, rests) in CAMERA_CORRUPTIONS.items()
        for camera in robot.cameras
    )


FAULTS = tuple(
    Fault(
        f'joints/{what}',
        ('joints',),
        detect=detect,
        rests=rests,
        latches=latches,
        within_s=12.0 if latches else 6.0,
        note=NOTES.get(what, ''),
        **make_corruption_actions('joints', corruption, values),
    )
    for what, (corruption, values, detect, rests, latches) in JOINT_STATE_CORRUPTIONS.items()
)
