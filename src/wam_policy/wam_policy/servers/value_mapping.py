"""Our values <-> a flavour's messages; each direction beside its inverse.

Outside: views uint8 [T h w 3] per camera, a posture [observed], targets [horizon commanded], in
canonical units. Inside: the maps and arrays that travel. Absolute targets leave here whatever the
server's actions are, so nobody downstream needs to know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wam_policy.core.robot.embodiment import Embodiment
from wam_policy.servers import image_resize
from wam_policy.servers.server_profile import Flavour, Key, Span

MAX_SIDE = 4096  # pixels


class Mismatch(ValueError):
    """A message does not hold what its flavour says."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Hold what a request shows."""

    views: Mapping[str, np.ndarray]  # camera -> uint8 [T h w 3]
    posture: np.ndarray  # float64 [observed]
    prompt: str


def shown(flavour: Flavour, views: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Give the pictures of a message; a single one travels without its first axis.

    No views at all are no pictures: a server with a memory of its own may not need them.
    """
    message: dict[str, Any] = {}
    for camera, key in flavour.cameras.items() if views else ():
        frames = image_resize.fitted(views[camera], flavour.size, flavour.fit)
        frames = image_resize.ordered(frames, flavour.order)
        _put(message, key, frames[0] if len(frames) == 1 else frames)
    return message


def views(flavour: Flavour, message: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Undo `shown`, except for what resizing lost; Mismatch names the key and what is wanted."""
    found = {}
    for camera, key in flavour.cameras.items():
        frames = _taken(message, key)
        if (
            not isinstance(frames, np.ndarray)
            or frames.dtype != np.uint8
            or frames.ndim not in (3, 4)
            or not frames.size
        ):
            raise Mismatch(
                f'{_spelt(key)}: want pictures uint8 [height width 3], one or a row '
                f'of them, got {_described(frames)}'
            )
        frames = image_resize.restored(frames[None] if frames.ndim == 3 else frames, flavour.order)
        height, width, channels = frames.shape[1:]
        wanted = flavour.size or (width, height)
        if channels != 3 or (width, height) != wanted or max(width, height) > MAX_SIDE:
            raise Mismatch(
                f'{_spelt(key)}: want {wanted[0]}x{wanted[1]} pictures of 3 channels '
                f'(sides up to {MAX_SIDE}), got {_described(frames)}'
            )
        found[camera] = np.array(frames)  # received bytes cannot be written to, tensors can
    counts = {camera: len(frames) for camera, frames in found.items()}
    if len(set(counts.values())) != 1:
        raise Mismatch(f'cameras differ in their number of pictures: {counts}')
    return found


def has_pictures(flavour: Flavour, message: Mapping[str, Any]) -> bool:
    """Tell whether a message shows anything."""
    return any(key[0] in message for key in flavour.cameras.values())


def stated(flavour: Flavour, robot: Embodiment, posture: np.ndarray) -> dict[str, Any]:
    """Give the state of a message for a posture [observed]."""
    message: dict[str, Any] = {}
    for span in flavour.state:
        columns = [robot.observed.index(name) for name in span.joints]
        values = _theirs(flavour, robot, span, posture[columns])
        _put(message, span.key, values.astype(np.float32))
    return message


def posture(flavour: Flavour, robot: Embodiment, message: Mapping[str, Any]) -> np.ndarray:
    """Undo `stated`; joints that this flavour's state does not carry are NaN."""
    found = np.full(len(robot.observed), np.nan)
    for span in flavour.state:
        values = _taken(message, span.key)
        if (
            not isinstance(values, np.ndarray)
            or values.dtype.kind not in 'fiu'
            or values.size != len(span.joints)
            or not np.isfinite(values).all()
        ):
            raise Mismatch(
                f'{_spelt(span.key)}: want {len(span.joints)} finite numbers, got '
                f'{_described(values)}'
            )
        columns = [robot.observed.index(name) for name in span.joints]
        found[columns] = _ours(flavour, robot, span, values.reshape(-1).astype(np.float64))
    return found


def request(
    flavour: Flavour,
    robot: Embodiment,
    frames: Mapping[str, np.ndarray],
    measured: np.ndarray,
    prompt: str,
) -> dict[str, Any]:
    """Give the message that asks for actions."""
    message = shown(flavour, frames)
    _merge(message, stated(flavour, robot, measured))
    _put(message, flavour.prompt_key, prompt)
    return message


def seen(
    flavour: Flavour, robot: Embodiment, message: Mapping[str, Any], *, blind: bool = False
) -> Seen:
    """Undo `request`; `blind` allows a message without any picture."""
    prompt = _taken(message, flavour.prompt_key)
    if not isinstance(prompt, str):
        raise Mismatch(f'{_spelt(flavour.prompt_key)}: want a text, got {_described(prompt)}')
    shows = has_pictures(flavour, message) or not blind
    return Seen(views(flavour, message) if shows else {}, posture(flavour, robot, message), prompt)


def answer(flavour: Flavour, robot: Embodiment, targets_: np.ndarray, measured: np.ndarray) -> Any:
    """Give the message that answers with absolute targets [horizon commanded].

    Rates beyond 1 stand in it as they are; whoever executes them scales the row down.
    """
    columns = []
    for span in flavour.columns:
        wanted = [robot.commanded.index(name) for name in span.joints]
        values = _theirs(flavour, robot, span, targets_[:, wanted])
        start = _theirs(flavour, robot, span, _measured(robot, span, measured))
        if span.kind == 'relative':
            values = values - start
        elif span.kind == 'rate':
            values = np.diff(np.vstack([start, values]), axis=0) / span.scale
        columns.append(values)
    actions = np.hstack(columns).astype(np.float32)
    if flavour.answer_key is None:
        return actions
    message: dict[str, Any] = {}
    _put(message, flavour.answer_key, actions)
    return message


def targets(flavour: Flavour, robot: Embodiment, message: Any, measured: np.ndarray) -> np.ndarray:
    """Undo `answer`: absolute targets float64 [horizon commanded]; Mismatch if it is not one."""
    if flavour.answer_key is None:
        actions = message
    else:
        actions = _taken(message, flavour.answer_key) if isinstance(message, dict) else message
    wanted = (flavour.horizon, flavour.width)
    if not isinstance(actions, np.ndarray) or actions.dtype.kind != 'f' or actions.shape != wanted:
        raise Mismatch(
            f'the answer is {_described(actions)}, want actions {list(wanted)} '
            f'({flavour.name}: horizon and joints)'
        )
    if not np.isfinite(actions).all():
        raise Mismatch('the answer is not finite')
    found = np.empty((flavour.horizon, len(robot.commanded)))
    first = 0
    for span in flavour.columns:
        values = actions[:, first : first + len(span.joints)].astype(np.float64)
        first += len(span.joints)
        start = _theirs(flavour, robot, span, _measured(robot, span, measured))
        if span.kind == 'relative':
            values = start + values
        elif span.kind == 'rate':
            # a row that asks for too much keeps its direction and loses speed
            excess = np.maximum(1.0, np.abs(values).max(axis=1, keepdims=True))
            values = start + np.cumsum(values / excess, axis=0) * span.scale
        joints = [robot.commanded.index(name) for name in span.joints]
        found[:, joints] = _ours(flavour, robot, span, values)
    return found


def _measured(robot: Embodiment, span: Span, measured: np.ndarray) -> np.ndarray:
    return measured[[robot.observed.index(name) for name in span.joints]]


def _theirs(flavour: Flavour, robot: Embodiment, span: Span, values: np.ndarray) -> np.ndarray:
    """Turn grippers from ours (0 closed .. 1 open) into the server's sense; a copy."""
    made, grippers = np.array(values, np.float64), _grippers(robot, span)
    opened, closed = flavour.gripper_open, flavour.gripper_closed
    made[..., grippers] = closed + made[..., grippers] * (opened - closed)
    return made


def _ours(flavour: Flavour, robot: Embodiment, span: Span, values: np.ndarray) -> np.ndarray:
    made, grippers = np.array(values, np.float64), _grippers(robot, span)
    opened, closed = flavour.gripper_open, flavour.gripper_closed
    made[..., grippers] = (made[..., grippers] - closed) / (opened - closed)
    return made


def _grippers(robot: Embodiment, span: Span) -> list[int]:
    named = {gripper.name for gripper in robot.grippers}
    return [column for column, name in enumerate(span.joints) if name in named]


def _put(message: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        message = message.setdefault(name, {})
    message[key[-1]] = value


def _taken(message: Mapping[str, Any], key: Key) -> Any:
    value: Any = message
    for name in key:
        if not isinstance(value, Mapping) or name not in value:
            raise Mismatch(f'{_spelt(key)} is missing')
        value = value[name]
    return value


def _merge(message: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _merge(message.setdefault(key, {}), value)
        else:
            message[key] = value


def _spelt(key: Key) -> str:
    return '.'.join(key)


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f'{value.dtype} {list(value.shape)}'
    return f'{value!r:.60}'
