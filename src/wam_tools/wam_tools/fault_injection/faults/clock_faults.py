"""Faults of the clock, for a stack that uses /clock."""

from collections.abc import Callable

from wam_tools.fault_injection.fault import Fault, FaultAction, FaultTestBench
from wam_tools.fault_injection.message_relay import ALL_ROUTES
from wam_tools.fault_injection.stack_client import StackFeature


def make_clock_shift(by_s: float) -> FaultAction:
    """Return an action that shifts the time of all nodes except the robot."""
    return lambda bench: bench.stack.configure_route(ALL_ROUTES, shift_s=by_s)


def make_clock_corruption(**command: object) -> Callable[[FaultTestBench], None]:
    return lambda bench: bench.stack.configure_route('clock', **command)


FAULTS = (
    Fault(
        'clock/2 s back',
        ('time',),
        make_clock_shift(-2.0),
        make_clock_shift(0.0),
        r'.*(clock|time) went back',
        None,
        required_feature=StackFeature.CLOCK,
        duration_s=2.0,
    ),
    Fault(
        'clock/3 s ahead',
        ('time',),
        make_clock_shift(3.0),
        make_clock_shift(0.0),
        None,
        None,
        required_feature=StackFeature.CLOCK,
        duration_s=2.0,
    ),
    Fault(
        'clock/stopped',
        ('time',),
        make_clock_corruption(corruption='lose', values=[1.0]),
        make_clock_corruption(),
        r'(motion|policy): .*(future|joint state)|watch: policy is silent',
        True,
        required_feature=StackFeature.CLOCK,
        duration_s=1.0,
    ),
)
