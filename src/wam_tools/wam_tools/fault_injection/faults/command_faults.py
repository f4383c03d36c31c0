"""Faults of what commands the robot beside the policy: controllers, other programs, a joystick."""

import time

from control_msgs.msg import SpeedScalingFactor
from std_msgs.msg import Empty
from trajectory_msgs.msg import JointTrajectory

from wam_policy.nodes import qos
from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.stack_client import StackFeature
from wam_tools.fault_injection.stack_observer import (
    JOYSTICK_HELD,
    JOYSTICK_RELEASED,
    poll_until,
)
from wam_tools.stack_launch import StackLaunchError

SLOWED = 0.5  # speed scaling
TOLERANCE_RAD = 0.05
DISCOVERY_S = 5.0
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


def set_tolerance(bench: FaultTestBench) -> None:
    """Give the first controller a tolerance, with which it replaces trajectories by a hold."""
    controller = bench.robot.controllers[0]
    parameters = bench.client.controller_parameters[controller.name]
    name = f'constraints.{controller.joints[0]}.trajectory'
    parameters[name] = TOLERANCE_RAD
    bench.undo_actions['tolerance'] = lambda: parameters.update({name: 0.0})


def deactivate_controller(bench: FaultTestBench, *, is_active: bool) -> None:
    """Let nobody subscribe to the first controller's topic, or somebody again."""
    bench.stack.configure_route(bench.robot.controllers[0].name, subscribed=is_active)


def publish_estop(bench: FaultTestBench) -> None:
    """Publish one e-stop signal, as any program can."""
    publisher = bench.client.create_publisher(Empty, 'estop_signal', qos.REQUEST)
    bench.undo_actions['estop'] = lambda: bench.client.destroy_publisher(publisher)
    if not poll_until(publisher.get_subscription_count, DISCOVERY_S):
        raise StackLaunchError('nobody subscribes to estop_signal')
    publisher.publish(Empty())


def release_joystick(bench: FaultTestBench) -> None:
    bench.client.joystick_buttons = JOYSTICK_RELEASED


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
        'command/tolerance of a controller set',
        ('controllers',),
        set_tolerance,
        lambda bench: bench.undo_actions.pop('tolerance')(),
        rf'motion: PROTECTIVE_STOP.*constraints.*trajectory is {TOLERANCE_RAD:g}, want 0.0',
        True,
        latches=True,
        note='found with the next reading of the parameters, once a second',
    ),
    Fault(
        'command/no controller subscribes',
        ('controllers',),
        lambda bench: deactivate_controller(bench, is_active=False),
        lambda bench: deactivate_controller(bench, is_active=True),
        r'motion: PROTECTIVE_STOP.*no controller subscribes to',
        True,
        latches=True,
    ),
    Fault(
        'command/e-stop signal on a topic',
        ('controllers',),
        publish_estop,
        lambda bench: bench.undo_actions.pop('estop')(),
        r'motion: ESTOPPED.*estop_signal',
        True,
        latches=True,
    ),
    Fault(
        'command/joystick released',
        ('joystick',),
        release_joystick,
        plug_in_joystick,
        r'motion: .*dead-man button 0 of the joystick',
        True,
        required_feature=StackFeature.JOYSTICK,
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
