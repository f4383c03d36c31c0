"""Faults of time itself, for a stack that follows /clock."""

from collections.abc import Callable

from wam_tools.fault_injection.fault import Act, Bench, Fault
from wam_tools.fault_injection.message_relay import EVERY
from wam_tools.fault_injection.stack_client import Needs


def jump(by_s: float) -> Act:
    """Set time off for everybody but the robot."""
    return lambda bench: bench.stack.tell(EVERY, shift_s=by_s)


def told(**command: object) -> Callable[[Bench], None]:
    return lambda bench: bench.stack.tell('clock', **command)


FAULTS = (
    Fault(
        'clock/2 s back',
        ('time',),
        jump(-2.0),
        jump(0.0),
        r'.*(clock|time) went back',
        None,
        needs=Needs.CLOCK,
        lasts_s=2.0,
    ),
    Fault(
        'clock/3 s ahead',
        ('time',),
        jump(3.0),
        jump(0.0),
        None,
        None,
        needs=Needs.CLOCK,
        lasts_s=2.0,
    ),
    Fault(
        'clock/stopped',
        ('time',),
        told(trick='lose', values=[1.0]),
        told(),
        r'(motion|policy): .*(future|joint state)|watch: policy is silent',
        True,
        needs=Needs.CLOCK,
        lasts_s=1.0,
    ),
)
