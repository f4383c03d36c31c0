"""Requests that a node must refuse: they do not fit its state, or make no sense at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import Trigger

from wam_msgs.srv import BeginEpisode, StartEpisode, StopEpisode
from wam_policy.core.robot import embodiment
from wam_tools.fault_injection.fault import Fault, FaultAction, FaultTestBench
from wam_tools.fault_injection.stack_client import LIFECYCLE_NODES

UNFIT_LABELS = ('configure', 'activate', 'cleanup', 'transition_error', 'nonsense')
ANSWER_TIMEOUT_S = 5.0
INVALID_PARAMETERS = (  # node, parameter, value
    ('motion', 'speed_scale', 7.0),
    ('motion', 'rate_hz', 0.0),
    ('policy', 'max_query_rate_hz', 1e6),
    ('policy', 'max_query_rate_hz', float('nan')),
    ('policy', 'max_query_rate_hz', 'fast'),
    ('recorder', 'jpeg_quality', 1000),
)
FIXED_PARAMETERS = (  # valid values, but not while the node is active
    *((node, 'use_sim_time', True) for node in LIFECYCLE_NODES),
    ('motion', 'enable_motion', False),
    ('motion', 'joint_states_topic', '/other_joint_states'),
    ('motion', 'rate_hz', 50.0),
    ('motion', 'collision_check', 'none'),
    ('policy', 'checkpoint', 'preset:tiny'),
    ('recorder', 'output_dir', '/nowhere'),
)
PARAMETER_FIELDS = {
    float: ('double_value', ParameterType.PARAMETER_DOUBLE),
    int: ('integer_value', ParameterType.PARAMETER_INTEGER),
    bool: ('bool_value', ParameterType.PARAMETER_BOOL),
    str: ('string_value', ParameterType.PARAMETER_STRING),
}
UNKNOWN_PARAMETER_TYPE = 200


@dataclass(frozen=True, slots=True)
class UnfitRequest:
    """One service call that must be answered with a refusal."""

    service_type: type
    service: str
    fields: dict[str, Any] = field(default_factory=dict)


MALFORMED_REQUESTS = (
    UnfitRequest(ChangeState, 'motion/change_state', {'transition': Transition(id=255)}),
    UnfitRequest(ChangeState, 'policy/change_state', {'transition': Transition(label='a\tb')}),
    UnfitRequest(StartEpisode, 'recorder/start', {'labels': ['=']}),
    UnfitRequest(StartEpisode, 'recorder/start', {'instruction': 'x' * 100_000}),
    UnfitRequest(StopEpisode, 'recorder/stop', {'keep': True, 'note': 'without an episode'}),
    UnfitRequest(BeginEpisode, '/sim/begin', {'seed': -(2**63)}),
    UnfitRequest(BeginEpisode, '/sim/begin', {'task_family': '../../etc'}),
)


def request_unfit_transitions(bench: FaultTestBench) -> None:
    """Ask every active node for transitions that do not start in its state."""
    for node in LIFECYCLE_NODES:
        for label in UNFIT_LABELS:
            _expect_refusal(
                bench,
                UnfitRequest(
                    ChangeState, f'{node}/change_state', {'transition': Transition(label=label)}
                ),
            )


def request_malformed(bench: FaultTestBench) -> None:
    """Send requests that make no sense; each must be refused, and none ends a node."""
    for request in MALFORMED_REQUESTS:
        _expect_refusal(bench, request)
    for node in LIFECYCLE_NODES:
        for value in (ParameterValue(type=UNKNOWN_PARAMETER_TYPE), ParameterValue(type=0)):
            _expect_rejection(bench, node, 'speed_scale', value)


def reset_unlatched(bench: FaultTestBench) -> None:
    """Ask a moving robot for a reset; the answer must be that there is nothing to reset."""
    reason = _expect_refusal(bench, UnfitRequest(Trigger, 'reset'))
    if 'nothing to reset' not in reason:
        raise ValueError(f'reset was refused for another reason: {reason}')


def set_rejected_parameters(
    bench: FaultTestBench, parameters: Sequence[tuple[str, str, object]]
) -> None:
    """Set (node, parameter, value) each; every one must be rejected with a reason."""
    for node, name, value in parameters:
        slot, kind = PARAMETER_FIELDS[type(value)]
        _expect_rejection(bench, node, name, ParameterValue(type=kind, **{slot: value}))
    bench.client.allow_repeated_entry('parameters')
    bench.client.add_log_entry('parameters', f'all {len(parameters)} refused')


def set_fixed_parameters(bench: FaultTestBench) -> None:
    """Set parameters of active nodes to valid other values, the robot among them."""
    other = next(name for name in embodiment.list_robots() if name != bench.robot.name)
    robots = [(node, 'embodiment', other) for node in LIFECYCLE_NODES]
    set_rejected_parameters(bench, (*FIXED_PARAMETERS, *robots))


def _expect_refusal(bench: FaultTestBench, request: UnfitRequest) -> str:
    """Return the reason of the refusal; ValueError if it was accepted or not answered."""
    answer = bench.client.call_service(
        request.service_type, request.service, ANSWER_TIMEOUT_S, **request.fields
    )
    if answer is None or answer.success:
        outcome = 'accepted' if answer else 'not answered'
        raise ValueError(f'{request.service} {str(request.fields)[:80]} was {outcome}')
    return getattr(answer, 'message', '')


def _expect_rejection(bench: FaultTestBench, node: str, name: str, value: ParameterValue) -> None:
    answer = bench.client.call_service(
        SetParameters,
        f'{node}/set_parameters',
        ANSWER_TIMEOUT_S,
        parameters=[Parameter(name=name, value=value)],
    )
    if answer is None or answer.results[0].successful or not answer.results[0].reason:
        outcome = f'accepts {name}: {value}' if answer else 'does not answer'
        raise ValueError(f'{node} {outcome}')


def make_refusal(name: str, inject: FaultAction, *components: str) -> Fault:
    """Return a fault that must be refused, while the robot moves on."""
    note = 'refused; nothing else changes'
    return Fault(f'requests/{name}', components, inject, None, False, note=note)


def make_parameter_refusal(name: str, inject: FaultAction) -> Fault:
    return Fault(f'parameters/{name}', ('parameters',), inject, r'parameters: all', False)


FAULTS = (
    make_refusal('transitions that do not fit', request_unfit_transitions, 'lifecycle'),
    make_refusal('malformed', request_malformed, 'lifecycle', 'recorder'),
    make_refusal(
        'reset where nothing is latched',
        reset_unlatched,
        *('controllers', 'joints', 'checks', 'motion'),
    ),
    make_parameter_refusal(
        'out of range at run time',
        lambda bench: set_rejected_parameters(bench, INVALID_PARAMETERS),
    ),
    make_parameter_refusal('fixed while a node is active', set_fixed_parameters),
)
