"""One parameter as a dataclass field: its description, its range, what is wrong with a value."""

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter

TOPIC_NAME = r'(/|~/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*'  # as ROS takes them, without substitutions
PARAMETER_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    tuple[str, ...]: Parameter.Type.STRING_ARRAY,
    tuple[float, ...]: Parameter.Type.DOUBLE_ARRAY,
}


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = '',
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    pattern: str = '',
    dynamic: bool = False,
    read_only: bool = False,
    deprecated_name: str = '',
    deprecated_values: Mapping[Any, str] = MappingProxyType({}),
) -> Any:
    """Describe one parameter as a dataclass field.

    `low` and `high` are part of the range; they and `pattern`, a regular expression, hold for
    every element of a list. A parameter that is not `dynamic` cannot change while the node is
    active, one that is `read_only` not after the start. `deprecated_name` and `deprecated_values`
    (old value -> new one) are accepted for one release with a warning in the log.
    """
    return dataclasses.field(
        default=default,
        metadata={
            'description': description,
            'unit': unit,
            'low': low,
            'high': high,
            'choices': choices,
            'pattern': pattern,
            'dynamic': dynamic,
            'read_only': read_only,
            'deprecated_name': deprecated_name,
            'deprecated_values': deprecated_values,
        },
    )


def validate_fields(params: Any) -> None:
    """Raise ValueError naming every field whose value is not allowed; for __post_init__."""
    faults = [
        fault
        for field in dataclasses.fields(params)
        if (fault := _find_error(field, getattr(params, field.name)))
    ]
    if faults:
        raise ValueError('; '.join(faults))


def make_descriptor(field: dataclasses.Field) -> ParameterDescriptor:
    """Return what a parameter declares to ROS: type, range, description with its unit."""
    meta = field.metadata
    extra = [f'one of {", ".join(map(str, meta["choices"]))}'] if meta['choices'] else []
    if not meta['dynamic']:
        extra.append('fixed at start' if meta['read_only'] else 'fixed while active')
    descriptor = ParameterDescriptor(
        name=field.name,
        type=PARAMETER_TYPES[field.type].value,
        additional_constraints='; '.join(extra),
        read_only=meta['read_only'],
        description=meta['description'] + (f' [{meta["unit"]}]' if meta['unit'] else ''),
    )
    if meta['low'] is not None:
        if field.type is int:
            descriptor.integer_range = [
                IntegerRange(from_value=int(meta['low']), to_value=int(meta['high']), step=0)
            ]
        elif field.type is float:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(meta['low']), to_value=float(meta['high']), step=0.0
                )
            ]
    return descriptor


def _find_error(field: dataclasses.Field, value: Any) -> str:
    """Return what is wrong with a value, or nothing."""
    meta = field.metadata
    for element in value if isinstance(value, tuple) else (value,):
        wrong = (
            (isinstance(element, float) and not math.isfinite(element))
            or (meta['low'] is not None and element < meta['low'])
            or (meta['high'] is not None and element > meta['high'])
            or (meta['choices'] and element not in meta['choices'])
            or (meta['pattern'] and not re.fullmatch(meta['pattern'], str(element)))
        )
        if wrong:
            return f'{field.name}: want {describe_expected(field)}, got {element!r}'
    return ''


def describe_expected(field: dataclasses.Field) -> str:
    """Return in words what a value of this field must be."""
    meta = field.metadata
    name = getattr(field.type, '__name__', '')
    kind = {
        'int': 'a whole number',
        'float': 'a number with a decimal point',
        'str': 'a text',
        'bool': 'true or false',
    }.get(name, f'a list ({field.type})')
    if meta['choices']:
        return f'one of {", ".join(map(str, meta["choices"]))}'
    if meta['pattern']:
        return f'{kind} like {meta["pattern"]}'
    if meta['low'] is None:
        return kind
    unit = f' {meta["unit"]}' if meta['unit'] else ''
    return f'{kind} in [{meta["low"]:g}, {meta["high"]:g}]{unit}'
