"""Faults of what commands the robot beside the policy: controllers, other programs, a joystick."""

import time
from typing import Any

from control_msgs.msg import SpeedScalingFactor
from std_msgs.msg import Empty
from trajectory_msgs.msg import JointTrajectory

from wam_policy.nodes import qos
from wam_tools.fault_injection.fault import Fault, FaultAction, FaultTestBench
from wam_tools.fault_injection.faults.relay_faults import make_relay_injection
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
        topic = f'{controller.topic.rpartition("/")[0]}/speed_scaling_input'
        # kept, so that a late subscriber gets the factor
        if topic not in bench.latched_publishers:
            bench.latched_publishers[topic] = bench.client.create_publisher(
                SpeedScalingFactor, topic, qos.LATCHED
            )
        bench.latched_publishers[topic].publish(SpeedScalingFactor(factor=factor))


def slow_down(bench: FaultTestBench, factor: float) -> None:
    """Set the factor until the fault ends."""
    bench.undo.callback(set_speed_scaling, bench, 1.0)
    set_speed_scaling(bench, factor)


def add_publisher(bench: FaultTestBench) -> None:
    """Publish beside motion_node, as a teleoperation program does."""
    publisher = bench.client.create_publisher(
        JointTrajectory, bench.robot.controllers[0].topic, qos.TRAJECTORY
    )
    bench.undo.callback(bench.client.destroy_publisher, publisher)


def set_tolerance(bench: FaultTestBench) -> None:
    """Give the first controller a tolerance, with which it replaces trajectories by a hold."""
    controller = bench.robot.controllers[0]
    parameters = bench.client.controller_parameters[controller.name]
    name = f'constraints.{controller.joints[0]}.trajectory'
    parameters[name] = TOLERANCE_RAD
    bench.undo.callback(parameters.update, {name: 0.0})


def deactivate_controller(bench: FaultTestBench) -> None:
    """Let nobody subscribe to the first controller's topic."""
    route = bench.robot.controllers[0].name
    make_relay_injection(route, {'subscribed': True}, subscribed=False)(bench)


def publish_estop(bench: FaultTestBench) -> None:
    """Publish one e-stop signal, as any program can."""
    publisher = bench.client.create_publisher(Empty, 'estop_signal', qos.REQUEST)
    bench.undo.callback(bench.client.destroy_publisher, publisher)
    if not poll_until(publisher.get_subscription_count, DISCOVERY_S):
        raise StackLaunchError('nobody subscribes to estop_signal')
    publisher.publish(Empty())


def release_joystick(bench: FaultTestBench) -> None:
    bench.undo.callback(plug_in_joystick, bench)
    bench.client.joystick_buttons = JOYSTICK_RELEASED


def plug_in_joystick(bench: FaultTestBench) -> None:
    """Publish again, release the button once and hold it."""
    bench.client.joystick_buttons = JOYSTICK_RELEASED
    time.sleep(RELEASE_S)
    bench.client.joystick_buttons = JOYSTICK_HELD


def unplug_joystick(bench: FaultTestBench) -> None:
    """Publish nothing more, with the button held."""
    bench.undo.callback(plug_in_joystick, bench)
    bench.client.joystick_buttons = None


def make_stop(name: str, inject: FaultAction, report: str, **more: Any) -> Fault:
    """Return a fault of the controllers after which motion latches a stop with a report."""
    name, components = f'command/{name}', ('controllers',)
    return Fault(name, components, inject, f'motion: {report}', True, latches=True, **more)


def make_joystick_fault(name: str, inject: FaultAction, report: str) -> Fault:
    needs, name = StackFeature.JOYSTICK, f'command/joystick {name}'
    report = f'motion: .*{report}'
    return Fault(name, ('joystick',), inject, report, True, required_feature=needs)


FAULTS = (
    make_stop(
        'speed scaling changed in motion',
        lambda bench: slow_down(bench, SLOWED),
        rf'PROTECTIVE_STOP.*speed scaling is {SLOWED:g}, want 1',
        duration_s=2.0,
        note='no stop is sent: the trajectory goes to its end at the lower speed',
    ),
    make_stop(
        'speed scaling paused in motion',
        lambda bench: slow_down(bench, 0.0),
        r'PROTECTIVE_STOP.*speed scaling is 0, want 1',
        duration_s=2.0,
        note='at rest at once; the trajectory goes to its end when the factor returns',
    ),
    make_stop(
        'second publisher on a trajectory topic',
        add_publisher,
        r'PROTECTIVE_STOP.*/wam/watch also publishes',
    ),
    make_stop(
        'tolerance of a controller set',
        set_tolerance,
        rf'PROTECTIVE_STOP.*constraints.*trajectory is {TOLERANCE_RAD:g}, want 0.0',
        note='found with the next reading of the parameters, once a second',
    ),
    make_stop(
        'no controller subscribes',
        deactivate_controller,
        r'PROTECTIVE_STOP.*no controller subscribes to',
    ),
    make_stop('e-stop signal on a topic', publish_estop, r'ESTOPPED.*estop_signal'),
    make_joystick_fault('released', release_joystick, r'dead-man button 0 of the joystick'),
    make_joystick_fault('lost', unplug_joystick, r'no message of the joystick for more than'),
)
