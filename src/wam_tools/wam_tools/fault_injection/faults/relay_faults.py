"""Faults that only configure the relay between robot, policy and motion: rows of a table."""

from pathlib import Path
from typing import Any

import yaml

from wam_policy.core.robot.embodiment import Embodiment
from wam_tools.fault_injection.fault import Fault, FaultAction, FaultTestBench
from wam_tools.fault_injection.stack_client import StackFeature

TABLE = yaml.safe_load(Path(__file__).with_suffix('.yaml').read_text(encoding='utf-8'))
COMMAND_FIELDS = ('corruption', 'values', 'delay_s', 'shift_s')  # of the relay
# family -> route, affected part of the stack, required feature
FAMILIES = {
    'joints': ('joints', 'joints', StackFeature.NOTHING),
    'chunk': ('chunks', 'chunks', StackFeature.NOTHING),
    'clock': ('clock', 'time', StackFeature.CLOCK),
}


def make_relay_injection(route: str, restore: dict | None = None, **command: Any) -> FaultAction:
    """Return an injection that configures one route, by default until it is as it was."""

    def inject(bench: FaultTestBench) -> None:
        bench.undo.callback(bench.stack.configure_route, route, **(restore or {}))
        bench.stack.configure_route(route, **command)

    return inject


def make_relay_faults(family: str) -> tuple[Fault, ...]:
    """Return the rows of joints, chunk or clock."""
    route, component, feature = FAMILIES[family]
    return tuple(
        _make_fault(f'{family}/{what}', component, {'route': route, **row}, feature)
        for what, row in TABLE[family].items()
    )


def make_camera_faults(robot: Embodiment) -> tuple[Fault, ...]:
    """Return every row of every camera of a robot."""
    return tuple(
        _make_fault(
            f'camera/{camera.key} {what}',
            camera.key,
            {**row, 'route': camera.key, 'detect': row['detect'].format(camera=camera.key)},
        )
        for what, row in TABLE['camera'].items()
        for camera in robot.cameras
    )


def _make_fault(
    name: str, component: str, row: dict[str, Any], feature: StackFeature = StackFeature.NOTHING
) -> Fault:
    command = {key: row[key] for key in COMMAND_FIELDS if key in row}
    other = {
        key: value
        for key, value in row.items()
        if key not in (*COMMAND_FIELDS, 'route', 'restore', 'detect', 'rests')
    }
    return Fault(
        name,
        (component,),
        make_relay_injection(row['route'], row.get('restore'), **command),
        detect=row.get('detect'),
        rests=row.get('rests'),
        required_feature=feature,
        **other,
    )
