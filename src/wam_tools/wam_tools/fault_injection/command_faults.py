"""Faults of what commands the robot beside the policy: controllers, other programs, a joystick."""

import time

from control_msgs.msg import SpeedScalingFactor
from trajectory_msgs.msg import JointTrajectory

from wam_policy.nodes import qos
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.stack_client import StackFeature
from wam_tools.fault_injection.stack_observer import JOYSTICK_HELD, JOYSTICK_RELEASED

SLOWED = 0.5  # speed scaling
RELEASE_S = 0.3  # longer than the period of the joystick's messages


def set_speed_scaling(bench: FaultTestBench, factor: float) -> None:
    """Set the factor of every controller, as the speed slider of a robot does."""
    for controller in bench.robot.controllers:
        publisher = bench.client.create_publisher(
            SpeedScalingFactor,
            f'{controller.topic.rpartition("/")[0]}/speed_scaling_input',
            qos.LATCHED,
        )
        publisher.publish(SpeedScalingFactor(factor=factor))
        key = f'speed scaling {controller.name}'
        if key in bench.undo_actions:
            bench.undo_actions.pop(
                key
            )()  # the publisher before: a late subscriber gets its factor
        bench.undo_actions[key] = lambda old=publisher: bench.client.destroy_publisher(old)


def add_publisher(bench: FaultTestBench) -> None:
    """Publish beside motion_node, as a teleoperation program does."""
    publisher = bench.client.create_publisher(
        JointTrajectory, bench.robot.controllers[0].topic, qos.TRAJECTORY
    )
    bench.undo_actions['publisher'] = lambda: bench.client.destroy_publisher(publisher)


def plug_in_joystick(bench: FaultTestBench) -> None:
    """Publish again, release the button once and hold it."""
    bench.client.joystick_buttons = JOYSTICK_RELEASED
    time.sleep(RELEASE_S)
    bench.client.joystick_buttons = JOYSTICK_HELD


def unplug_joystick(bench: FaultTestBench) -> None:
    """Publish nothing more, with the button held."""
    bench.client.joystick_buttons = None


FAULTS = (
    Fault(
        'command/speed scaling changed in motion',
        ('controllers',),
        lambda bench: set_speed_scaling(bench, SLOWED),
        lambda bench: set_speed_scaling(bench, 1.0),
        rf'motion: PROTECTIVE_STOP.*speed scaling is {SLOWED:g}, want 1',
        True,
        duration_s=2.0,
        latches=True,
        note='no stop is sent: the trajectory goes to its end at the lower speed',
    ),
    Fault(
        'command/speed scaling paused in motion',
        ('controllers',),
        lambda bench: set_speed_scaling(bench, 0.0),
        lambda bench: set_speed_scaling(bench, 1.0),
        r'motion: PROTECTIVE_STOP.*speed scaling is 0, want 1',
        True,
        duration_s=2.0,
        latches=True,
        note='at rest at once; the trajectory goes to its end when the factor returns',
    ),
    Fault(
        'command/second publisher on a trajectory topic',
        ('controllers',),
        add_publisher,
        lambda bench: bench.undo_actions.pop('publisher')(),
        r'motion: PROTECTIVE_STOP.*/wam/watch also publishes',
        True,
        latches=True,
    ),
    Fault(
        'command/joystick lost',
        ('joystick',),
        unplug_joystick,
        plug_in_joystick,
        r'motion: .*no message of the joystick for more than',
        True,
        required_feature=StackFeature.JOYSTICK,
    ),
)
