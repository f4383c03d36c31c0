"""Faults around arms that a driver of stream_node holds up: two YAM arms on an emulated CAN bus.

Each row starts launches of its own, moves the arms, and checks that no motor loses its torque and
that a launch moves them again. What is commanded here are planned moves; there is no policy.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import rclpy

from wam_policy.nodes.run_node import ExecutorThread
from wam_tools.can_emulation.arms_on_can import CHANNELS, ArmsOnCan
from wam_tools.can_emulation.dm_motors import TIMEOUT_S
from wam_tools.fault_injection.fault import Fault, do_nothing
from wam_tools.fault_injection.fault_runner import FaultResult, collect_errors, elapsed_ms
from wam_tools.fault_injection.stack_client import StackFeature
from wam_tools.fault_injection.stack_observer import poll_until

ROBOT = 'yam'
DETECTION_S, REST_S, EXIT_S = 30.0, 10.0, 60.0
STEP_S = 0.002  # of the setpoint's change in other rows
HELD = 'held up by this process alone'
KILLED = 'exited with code -9'
NODES = ('policy_node', 'motion_node')


@dataclass(frozen=True, slots=True)
class ArmFault:
    """What is done to the arms and their launch, and how they move again."""

    inject: Callable[[ArmsOnCan], object]
    detect: str  # in the log of the launch; empty: there is nobody left to print it
    recover: Callable[[ArmsOnCan], object]
    is_up_before: bool = True  # False: `inject` launches


def run_arm_fault(arm_fault: ArmFault, fault: Fault, folder: Path, domain_id: int) -> FaultResult:
    """Run one row; what the driver's doubles and the launches write goes to `folder`."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain_id)
    # sockets have short names: not below a long folder
    with tempfile.TemporaryDirectory(prefix='wam-can-') as sockets:
        (folder / 'logs').symlink_to(sockets)
        arms = ArmsOnCan(Path(sockets), context, domain_id)
        spinning = ExecutorThread([arms.bench.node])
        try:
            with arms.bus:
                try:
                    return _observe(arm_fault, fault, arms)
                finally:
                    arms.close()
                    (folder / 'logs').unlink()
                    for _, log in arms.launches:
                        (folder / log.name).write_bytes(log.read_bytes())
        finally:
            spinning.stop()
            arms.bench.node.destroy_node()
            rclpy.shutdown(context=context)


def _observe(arm_fault: ArmFault, fault: Fault, arms: ArmsOnCan) -> FaultResult:
    wrong: list[str] = []
    detected_s = rested_s = recovery_s = None
    start_s = time.monotonic()
    with collect_errors(wrong):
        if arm_fault.is_up_before:
            arms.bring_up()
            arms.start_moving()
        start_s = time.monotonic()
        arm_fault.inject(arms)
        if arm_fault.detect:
            detected_s = poll_until(
                lambda: arm_fault.detect in arms.read_log() and time.monotonic(), DETECTION_S
            )
            if detected_s is None:
                wrong.append(f'no report of {arm_fault.detect!r}')
        if arm_fault.is_up_before:
            rested_s = poll_until(lambda: arms.are_at_rest() and time.monotonic(), REST_S)
            time.sleep(2 * TIMEOUT_S)  # a motor without frames has lost its torque by then
            wrong += arms.find_faults()
        begin_s = time.monotonic()
        arm_fault.recover(arms)
        arms.start_moving()
        recovery_s = time.monotonic() - begin_s
        arms.wait_rest()
        wrong += arms.find_faults()
    if arm_fault.is_up_before and rested_s is None:
        wrong.append('the arms did not come to rest')
    fastest = max((arm.max_speed for arm in arms.bus.states()), default=0.0)
    return FaultResult(
        fault.name,
        not wrong,
        elapsed_ms(detected_s, start_s),
        round(fastest * STEP_S, 6),
        len(arms.find_faults()),
        elapsed_ms(rested_s, start_s),
        recovery_s is not None,
        None if recovery_s is None else round(1e3 * recovery_s, 1),
        '; '.join(filter(None, (fault.note, *wrong))),
    )


def do_nothing_to_arms(_: ArmsOnCan) -> None:
    """Go on with the same launch."""


def kill_process(words: str, arms: ArmsOnCan) -> None:
    arms.find_process(words).kill()


def interrupt_launch(arms: ArmsOnCan) -> None:
    os.killpg(arms.launches[-1][0].pid, signal.SIGINT)


def kill_launch(arms: ArmsOnCan) -> None:
    """Kill the launch itself, and end its nodes as a terminal that is closed does."""
    process = arms.launches[-1][0]
    process.kill()
    process.wait(EXIT_S)
    os.killpg(process.pid, signal.SIGINT)

    def have_nodes_ended() -> bool:
        for node in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getpgid(node.pid) == process.pid and node.status() != psutil.STATUS_ZOMBIE:
                    return False
        return True

    # a launch before that finds them, and leaves them alone
    if not poll_until(have_nodes_ended, EXIT_S):
        raise ValueError(f'nodes of the killed launch still run after {EXIT_S:g} s')


def launch_without_power(arms: ArmsOnCan) -> None:
    """Launch while one motor has no power: the driver raises when the arm is opened."""
    arms.bus.call(CHANNELS[1], 'cut_power', 3)
    if arms.launch().wait(EXIT_S) != 1:
        raise ValueError('the launch did not end with status 1')
    if poll_until(lambda: not any(arm.client_count for arm in arms.bus.states()), REST_S) is None:
        raise ValueError('the driver has left a CAN channel open')


def take_over(arms: ArmsOnCan) -> None:
    """Launch again; ValueError if not the process that holds the arms drives them."""
    arms.launches[-1][0].wait(EXIT_S)
    before = arms.stream
    arms.bring_up()
    if before is None or arms.stream is None or arms.stream.pid != before.pid:
        raise ValueError('another process drives the arms: they were not taken over')
    if f'process {before.pid} holds the arms and is taken over' not in arms.read_log():
        raise ValueError('the launch does not say that it takes the arms over')


def release_and_launch(arms: ArmsOnCan) -> None:
    """Let the arms down, as a person does who supports them, and launch again."""
    interrupt_launch(arms)
    arms.launches[-1][0].wait(EXIT_S)
    arms.release()
    if arms.stream is not None:
        with suppress(psutil.NoSuchProcess):
            arms.stream.wait(EXIT_S)
    arms.bring_up()
    for channel in CHANNELS:
        arms.bus.call(channel, 'forget_errors')


def restore_power_and_launch(arms: ArmsOnCan) -> None:
    arms.bus.call(CHANNELS[1], 'restore_power', 3)
    arms.bring_up()
    for channel in CHANNELS:
        arms.bus.call(channel, 'forget_errors')


def make_fault(name: str, row: ArmFault, note: str) -> Fault:
    """Return an ArmFault as a row of the table."""
    return Fault(
        f'arms/{name}',
        ('arms',),
        do_nothing,
        row.detect,
        True,
        required_feature=StackFeature.CAN,
        note=note,
        run_alone=partial(run_arm_fault, row),
    )


FAULTS = (
    make_fault(
        'held, then taken over by the next launch',
        ArmFault(interrupt_launch, HELD, take_over),
        'Ctrl-C in motion; the same process drives them after the next launch',
    ),
    *(
        make_fault(
            f'{name} killed in motion',
            ArmFault(partial(kill_process, name), HELD, take_over),
            'the launch ends; the next one takes the arms over',
        )
        for name in NODES
    ),
    make_fault(
        'recorder_node killed in motion',
        ArmFault(partial(kill_process, 'recorder_node'), KILLED, do_nothing_to_arms),
        'nothing else ends',
    ),
    make_fault(
        'starter of stream_node killed in motion',
        ArmFault(partial(kill_process, 'lib/wam_policy/stream_node'), KILLED, take_over),
        'the launch ends; the next one takes the arms over',
    ),
    make_fault(
        'launch killed in motion',
        ArmFault(kill_launch, '', take_over),
        'its nodes end with the terminal; the next one takes the arms over',
    ),
    make_fault(
        'thread of the driver ended in motion',
        ArmFault(
            lambda arms: arms.end_command_thread(CHANNELS[0]),
            'its thread that turns commands into motor frames ended',
            release_and_launch,
        ),
        'the driver repeats its last command; released by a person, the next launch moves them',
    ),
    make_fault(
        'driver raises when an arm is opened',
        ArmFault(
            launch_without_power,
            'right arm on can_follower_r does not open: fail to communicate with the motor 3',
            restore_power_and_launch,
            is_up_before=False,
        ),
        'one sentence, and everything opened is closed',
    ),
)
