"""Parse the blocks of a server profile that have a default: a profile names what is different."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.core.robot.kinematics import ToolFrame
from wam_policy.core.robot.strict_yaml import StrictMapping, parse_float
from wam_policy.servers.mapping import message_template, rotation_format
from wam_policy.servers.mapping.nested_keys import KeyPath
from wam_policy.servers.profile_fields import (
    ACTION_KINDS,
    POSE_KINDS,
    POSE_PARTS,
    TRANSPORT_KINDS,
    FixedGroup,
    JointGroup,
    Operation,
    PoseGroup,
    ServerTimeouts,
    TransportProfile,
    ValueGroup,
)

AUTH_SCHEMES = ('api_key', 'bearer', 'field')
IMAGE_ENCODINGS = ('raw', 'lists', 'jpeg_base64')
IMAGE_AXES = ('batch', 'time')
ACTION_ENCODINGS = ('arrays', 'lists')
ACTION_AXES = (
    ('rows', 'columns'),
    ('batch', 'rows', 'columns'),
    ('columns', 'frames', 'rows'),
    ('columns',),
)
# the only requests that a profile can contain: a server's dangerous ones cannot be reached
OPERATIONS = ('greet', 'start', 'reset', 'observe', 'commit', 'infer')


def parse_transport(document: StrictMapping) -> TransportProfile:
    """Return the block `transport`, or a WebSocket with its defaults."""
    if 'transport' not in document:
        return TransportProfile()
    table = document.read_mapping('transport')
    kind = parse_choice(table, 'kind', TRANSPORT_KINDS)
    profile = TransportProfile(
        kind,
        kind == 'websocket' and parse_optional_choice(table, 'greets', (True, False)),
        parse_optional_choice(table, 'auth', AUTH_SCHEMES),
        table.read_float('max_answer_mb', above=0.0) if 'max_answer_mb' in table else 16.0,
        parse_optional_choice(table, 'may_repeat', (False, True)),
        _parse_timeouts(table),
    )
    table.reject_unknown_keys()
    return profile


def _parse_timeouts(table: StrictMapping) -> ServerTimeouts:
    if 'timeouts_s' not in table:
        return ServerTimeouts()
    limits = table.read_mapping('timeouts_s')
    values = {
        f'{key}_s': limits.read_float(key, above=0.0)
        for key in ('connect', 'reset', 'first', 'answer')
        if key in limits
    }
    limits.reject_unknown_keys()
    return ServerTimeouts(**values)


def parse_operations(
    document: StrictMapping, session_key: KeyPath | None, endpoint_key: str | None
) -> Mapping[str, Operation]:
    """Return the requests of a server; by default those of the OpenPI protocol."""
    if 'operations' not in document:
        return MappingProxyType(_make_default_operations(session_key, endpoint_key))
    table = document.read_mapping('operations')
    found = {}
    for name in table:
        if name not in OPERATIONS:
            raise ValueError(
                f'{table.key_path(name)}: unknown operation; known: {", ".join(OPERATIONS)}'
            )
        found[name] = _parse_operation(table.read_mapping(name))
    if 'infer' not in found:
        raise ValueError(f'{table.key_path("infer")} is missing; add it')
    return MappingProxyType(found)


def _make_default_operations(
    session_key: KeyPath | None, endpoint_key: str | None
) -> dict[str, Operation]:
    session = {} if session_key is None else {session_key[0]: '$session'}
    infer = {message_template.MERGE_KEY: '$observation', **session}
    if endpoint_key is None:
        return {'infer': Operation(message=infer)}
    return {
        'infer': Operation(message={**infer, endpoint_key: 'infer'}),
        'reset': Operation(message={endpoint_key: 'reset', **session}),
        'commit': Operation(
            message={
                message_template.MERGE_KEY: '$images',
                **session,
                endpoint_key: 'commit',
                'block': '$block',
            }
        ),
    }


def _parse_operation(table: StrictMapping) -> Operation:
    route = table.read_str('route') if 'route' in table else 'POST /'
    method, _, path = route.partition(' ')
    if method not in ('GET', 'POST') or not path.startswith('/'):
        raise ValueError(f'{table.key_path("route")}: want GET /path or POST /path, got {route!r}')
    message = _to_plain(table.read_frozen('message')) if 'message' in table else None
    unknown = message_template.find_unknown_variables(message)
    if unknown:
        raise ValueError(
            f'{table.key_path("message")}: unknown variable {", ".join(unknown)}; known: '
            f'{", ".join(f"${name}" for name in message_template.VARIABLES)}'
        )
    operation = Operation(
        route,
        message,
        parse_optional_choice(table, 'answer', (True, False)),
        parse_optional_key_path(table, 'id') if 'id' in table else None,
    )
    table.reject_unknown_keys()
    return operation


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_plain(inner) for key, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, tuple) else value


def parse_prompt_text(request: StrictMapping) -> str:
    text = request.read_str('prompt_text') if 'prompt_text' in request else '{prompt}'
    if text.count('{prompt}') != 1 or text.replace('{prompt}', '').strip('{}') != text.replace(
        '{prompt}', ''
    ):
        raise ValueError(
            f'{request.key_path("prompt_text")}: want a text with {{prompt}} once, got {text!r}'
        )
    return text


def parse_constants(request: StrictMapping) -> Mapping[str, Any]:
    """Return what every request has besides images, state and prompt."""
    if 'constants' not in request:
        return MappingProxyType({})
    return MappingProxyType(_to_plain(request.read_frozen('constants')))


def parse_image_axes(shown: StrictMapping) -> tuple[str, ...] | None:
    if 'axes' not in shown:
        return None
    axes = shown.read_strs('axes', allow_empty=True)
    if axes not in ((), ('batch',), ('time',), IMAGE_AXES):
        raise ValueError(
            f'{shown.key_path("axes")}: want [], [batch], [time] or [batch, time], got {axes}'
        )
    return axes


def parse_grippers(
    document: StrictMapping, robot: Embodiment
) -> tuple[Mapping[str, tuple[float, float]], bool]:
    """Return the server's open and closed value of each gripper, and whether values are clipped.

    A profile has one pair for all grippers, or one for each.
    """
    table = document.read_mapping('grippers')
    clips = parse_optional_choice(table, 'clip', (False, True))
    names = [gripper.name for gripper in robot.grippers]
    if 'open' in table:
        pair = table.read_float('open'), table.read_float('closed')
        table.reject_unknown_keys()
        return MappingProxyType(dict.fromkeys(names, pair)), clips
    found = {}
    for name in names:
        inner = table.read_mapping(name)
        found[name] = inner.read_float('open'), inner.read_float('closed')
        inner.reject_unknown_keys()
    table.reject_unknown_keys()
    return MappingProxyType(found), clips


def parse_tools(document: StrictMapping, robot: Embodiment) -> Mapping[str, ToolFrame]:
    """Return the tool points whose poses the server sends or receives."""
    if 'tools' not in document:
        return MappingProxyType({})

    def parse(name: str, table: StrictMapping) -> tuple[str, ToolFrame]:
        x, y, z = table.read_floats('tool_xyz', 3)
        quat = (1.0, 0.0, 0.0, 0.0)
        if 'tool_quat_wxyz' in table:
            quat = table.read_floats('tool_quat_wxyz', 4)
        joints = table.read_strs('joints')
        unknown = [joint for joint in joints if joint not in robot.commanded]
        if unknown:
            raise ValueError(f'{table.key_path("joints")}: unknown joint {", ".join(unknown)}')
        tool = ToolFrame(
            joints,
            table.read_str('link'),
            (x, y, z),
            (quat[0], quat[1], quat[2], quat[3]),
            table.read_str('base'),
        )
        if not any(quat):
            raise ValueError(f'{table.key_path("tool_quat_wxyz")}: want a unit quaternion')
        return name, tool

    return MappingProxyType(dict(document.read_mappings('tools', parse)))


def parse_action_layout(actions: StrictMapping) -> dict[str, Any]:
    """Return the fields of ServerProfile that say how rows lie in an answer."""
    axes = actions.read_strs('axes') if 'axes' in actions else ACTION_AXES[0]
    if axes not in ACTION_AXES:
        raise ValueError(
            f'{actions.key_path("axes")}: want one of '
            f'{"; ".join(", ".join(known) for known in ACTION_AXES)}, got {", ".join(axes)}'
        )
    horizon = actions.read_int('horizon')
    rows_per_frame = actions.read_int('rows_per_frame') if 'rows_per_frame' in actions else 1
    return {
        'actions_key': parse_optional_key_path(actions, 'key'),
        'action_axes': axes,
        'action_encoding': parse_optional_choice(actions, 'encoding', ACTION_ENCODINGS),
        'row_maps': parse_optional_choice(actions, 'row_maps', (False, True)),
        'horizon': horizon,
        'drops_extra_rows': parse_optional_choice(actions, 'extra_rows', ('reject', 'drop'))
        == 'drop',
        'drops_extra_columns': parse_optional_choice(actions, 'extra_columns', ('reject', 'drop'))
        == 'drop',
        'rows_per_frame': rows_per_frame,
        'skips_first_frame': parse_optional_choice(actions, 'first_frame', ('execute', 'skip'))
        == 'skip',
        'step_hz': actions.read_float('step_hz', above=0.0),
    }


def parse_group(
    table: StrictMapping, known: Sequence[str], tools: Sequence[str], *, is_state: bool
) -> ValueGroup:
    """Return the joints, the pose or the fixed values of one entry."""
    key = parse_key_path(table, 'key') if is_state or 'key' in table else ()
    if 'pose' in table:
        return _parse_pose_group(table, key, tools, is_state)
    if 'fixed' in table:
        values = table.read('fixed')
        if not isinstance(values, list) or not values:
            raise ValueError(f'{table.key_path("fixed")}: want a list of numbers')
        numbers = tuple(parse_float(value, table.key_path('fixed')) for value in values)
        return FixedGroup(len(numbers), key, numbers)
    if 'ignore' in table:
        return FixedGroup(table.read_int('ignore'), key)
    joints = table.read_strs('joints')
    unknown = [name for name in joints if name not in known]
    if unknown:
        raise ValueError(f'{table.key_path("joints")}: unknown joint {", ".join(unknown)}')
    degrees = parse_optional_choice(table, 'unit', ('rad', 'deg')) == 'deg'
    if is_state:
        return JointGroup(joints, key, in_degrees=degrees)
    kind = parse_choice(table, 'kind', ACTION_KINDS)
    scale = table.read_float('scale', above=0.0) if kind == 'rate' else 1.0
    return JointGroup(joints, key, kind, scale, degrees)


def _parse_pose_group(
    table: StrictMapping, key: KeyPath, tools: Sequence[str], is_state: bool
) -> PoseGroup:
    name = table.read_str('pose')
    if name not in tools:
        raise ValueError(
            f'{table.key_path("pose")}: unknown tool {name}; '
            f'known in the block tools: {", ".join(tools) or "none"}'
        )
    part = parse_optional_choice(table, 'part', POSE_PARTS)
    rotation = next(iter(rotation_format.FORMATS))
    if part != 'xyz':
        rotation = parse_choice(table, 'rotation', tuple(rotation_format.FORMATS))
    kind = 'absolute' if is_state else parse_choice(table, 'kind', POSE_KINDS)
    return PoseGroup(name, part, rotation, key, kind)


def parse_key_path(table: StrictMapping, key: str) -> KeyPath:
    """Read one key, or a list of keys and indices for a value inside nested maps and lists."""
    value = table.read(key)
    if not isinstance(value, list):
        return (table.read_str(key),)
    good = all(type(part) is int or (isinstance(part, str) and part) for part in value)
    if not value or not good:
        raise ValueError(
            f'{table.key_path(key)}: want a key or a list of keys and indices, got {value!r}'
        )
    return tuple(value)


def parse_optional_key_path(table: StrictMapping, key: str) -> KeyPath | None:
    return None if table.read(key) is None else parse_key_path(table, key)


def parse_optional_text(table: StrictMapping, key: str) -> str | None:
    return None if table.read(key) is None else table.read_str(key)


def parse_choice[T](table: StrictMapping, key: str, choices: Sequence[T]) -> T:
    """Read one of `choices`."""
    value = table.read(key)
    if value not in choices or isinstance(value, bool) != isinstance(choices[0], bool):
        raise ValueError(
            f'{table.key_path(key)}: want one of {", ".join(map(str, choices))}, got {value!r}'
        )
    return value


def parse_optional_choice[T](table: StrictMapping, key: str, choices: Sequence[T]) -> T:
    """Read one of `choices`; the first if the key is absent."""
    return parse_choice(table, key, choices) if key in table else choices[0]
