"""Checks of motion that have no inputs: each is listed, and the simulated robot moves on.

A real robot would not be enabled (tests/core/robot/test_safety_checks.py); a simulated one is, so
that the rows show what is listed and that nothing else changes.
"""

from wam_tools.fault_injection.fault import Fault, FaultTestBench
from wam_tools.fault_injection.faults.relay_faults import make_relay_injection

UNDECLARED_PARAMETER = 'cmd_timeout'
LISTED = r'checks: .*\b{check}\b'
# an effort or a report is missed after a second, a parameter with the next reading
WITHIN_S = 8.0


def drop_controller_states(bench: FaultTestBench) -> None:
    for controller in bench.robot.controllers:
        route = f'{controller.name} state'
        make_relay_injection(route, corruption='lose', values=[1.0])(bench)


def remove_parameter(bench: FaultTestBench) -> None:
    """Let the first controller be one that does not declare a parameter."""
    parameters = bench.client.controller_parameters[bench.robot.controllers[0].name]
    value = parameters.pop(UNDECLARED_PARAMETER)
    bench.undo.callback(parameters.update, {UNDECLARED_PARAMETER: value})


def restart_motion_without_collision_check(bench: FaultTestBench) -> None:
    bench.undo.callback(bench.stack.restart_process, 'motion')
    bench.stack.restart_process('motion', {'collision_check': 'none'})


def make_listed_fault(what: str, check: str, **changes: object) -> Fault:
    """Return a fault after which `check` is listed as not active, while the robot moves on."""
    return Fault(
        **{
            'name': f'checks/{what}',
            'components': ('checks',),
            'detect': LISTED.format(check=check),
            'rests': False,
            'within_s': WITHIN_S,
            'note': f'{check} is listed as not active',
            **changes,
        }
    )


FAULTS = (
    make_listed_fault(
        'joint states without efforts',
        'effort',
        components=('joints',),
        inject=make_relay_injection('joints', corruption='no effort'),
    ),
    make_listed_fault(
        'controllers that report nothing',
        'controller_reports',
        components=('controllers',),
        inject=drop_controller_states,
    ),
    make_listed_fault(
        'controller without a parameter',
        'controller_settings',
        components=('controllers',),
        inject=remove_parameter,
    ),
    make_listed_fault(
        'robot that measures no temperature',
        'temperature',
        inject=lambda bench: bench.client.allow_repeated_entry('checks'),
    ),
    make_listed_fault(
        'motion without a collision model',
        'collision',
        components=('motion',),
        inject=restart_motion_without_collision_check,
        rests=None,
        note='collision is listed as not active; motion is restarted for it',
    ),
)
