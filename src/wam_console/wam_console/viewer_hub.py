"""Browsers that look at the page: what each gets, and which one is in control.

Notable:
- one tab is in control or none; a tab that is closed or loses its connection loses control, and
  nothing is sent to the robot because of it;
- the e-stop is taken from every tab;
- a slow browser gets the newest of each kind, never a growing queue.

Binary messages: kind, index (bytes), number (uint16), age in s (float32), then the payload.
"""

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from wam_console.command_executor import CommandResult, OnResult
from wam_console.commands import (
    Estop,
    ReleaseControl,
    Request,
    RobotCommand,
    ShowPredictions,
    TakeControl,
    parse_request,
)
from wam_console.imagination import ComparedFrame
from wam_console.stack_subscriber import encode_jpeg

TICK_S = 0.1
TICKS_PER_STATE = 2
RESULT_TIMEOUT_S = 5.0
MAX_VIEWERS = 8
MAX_REQUESTS_PER_S = 20  # of one browser; more is no person
MAX_ERRORS = 5  # of one browser, then its connection is closed
MAX_UNSENT = 64  # answers and compared frames that a slow browser may be behind
POLICY_VIOLATION = 1008
IMAGE, POSES, PREDICTED, REAL = 1, 2, 3, 4
FRAME_QUALITY = 80  # JPEG, of small predicted images


class StackView(Protocol):
    """What the hub shows; implemented by StackSubscriber."""

    def describe(self) -> dict[str, Any]: ...
    def make_state(self) -> dict[str, Any]: ...
    def make_poses(self) -> dict[str, Any]: ...
    def make_objects(self) -> list[dict[str, Any]]: ...
    def take_image(self, camera: str) -> tuple[bytes, float] | None: ...
    def take_compared_frames(self) -> list[tuple[ComparedFrame, float]]: ...
    def set_viewers(self, count: int, *, wants_predictions: bool) -> None: ...


class Viewer:
    """One connected browser tab."""

    def __init__(self, number: int, socket: WebSocket) -> None:
        self.number, self.socket = number, socket
        self.shows_predictions = False
        self._newest: dict[str, str | bytes] = {}  # kind -> message; a newer one replaces it
        self._queue: deque[str | bytes] = deque(maxlen=MAX_UNSENT)
        self._has_unsent = asyncio.Event()
        self._window_s, self._requests_in_window, self._errors = 0.0, 0, 0

    def put(self, kind: str, message: str | bytes) -> None:
        """Send a message unless a newer one of its kind comes first."""
        self._newest[kind] = message
        self._has_unsent.set()

    def enqueue(self, message: str | bytes) -> None:
        """Send a message after those before it."""
        self._queue.append(message)
        self._has_unsent.set()

    async def run_sender(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            while self._queue or self._newest:
                if self._queue:
                    message = self._queue.popleft()
                else:
                    message = self._newest.pop(next(iter(self._newest)))
                if isinstance(message, str):
                    await self.socket.send_text(message)
                else:
                    await self.socket.send_bytes(message)

    def allow_request(self, now_s: float) -> bool:
        """Count a request; False if there are too many for a person."""
        if now_s - self._window_s >= 1.0:
            self._window_s, self._requests_in_window = now_s, 0
        self._requests_in_window += 1
        return self._requests_in_window <= MAX_REQUESTS_PER_S

    def allow_error(self) -> bool:
        self._errors += 1
        return self._errors < MAX_ERRORS


class ViewerHub:
    """Serve all viewers; runs in one event loop."""

    def __init__(
        self,
        stack: StackView,
        execute: Callable[[RobotCommand, OnResult], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Take what starts a command of an operator, and what records a fault of this program."""
        self._stack, self._execute, self._on_error = stack, execute, on_error
        self._viewers: dict[int, Viewer] = {}
        self._description = stack.describe()
        self._numbers = count(1)
        self._operator: Viewer | None = None  # the tab in control
        self._has_viewers = asyncio.Event()
        self._last_objects = ''
        self._last_command = ''

    async def serve_viewer(self, socket: WebSocket) -> None:
        """Serve an accepted connection until it closes."""
        if len(self._viewers) >= MAX_VIEWERS:
            await socket.close(POLICY_VIOLATION, f'{MAX_VIEWERS} browsers look already')
            return
        viewer = Viewer(next(self._numbers), socket)
        self._viewers[viewer.number] = viewer
        self._update_stack()
        hello = {'type': 'hello', 'viewer': viewer.number, **self._description}
        viewer.enqueue(json.dumps(hello))
        self._last_objects = ''  # the next tick sends them again
        sender = asyncio.create_task(viewer.run_sender())
        try:
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._receive_requests(viewer)
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
                await sender
            del self._viewers[viewer.number]
            if self._operator is viewer:
                self._operator = None
            self._update_stack()

    async def run_broadcast(self) -> None:
        """Send what is new to every viewer; without one this waits."""
        for tick in count():
            await self._has_viewers.wait()
            begin_s = time.monotonic()
            try:
                self._broadcast(tick)
            except Exception as error:  # noqa: BLE001 - recorded; the page goes on
                self._on_error(error)
            await asyncio.sleep(max(0.02, TICK_S - (time.monotonic() - begin_s)))

    def _broadcast(self, tick: int) -> None:
        viewers = list(self._viewers.values())
        poses = pack_poses(self._stack.make_poses())
        objects = json.dumps({'type': 'objects', 'objects': self._stack.make_objects()})
        has_new_objects = objects != self._last_objects
        self._last_objects = objects
        for viewer in viewers:
            viewer.put('poses', poses)
            if has_new_objects:
                viewer.put('objects', objects)
        if tick % TICKS_PER_STATE == 0:
            state = json.dumps(self._make_state())
            for viewer in viewers:
                viewer.put('state', state)
        for index, camera in enumerate(self._description['cameras']):
            found = self._stack.take_image(camera)
            if found is not None:
                image = pack(IMAGE, index, 0, found[1], found[0])
                for viewer in viewers:
                    viewer.put(f'image{index}', image)
        watching = [viewer for viewer in viewers if viewer.shows_predictions]
        for frame, age_s in self._stack.take_compared_frames() if watching else ():
            jpeg = encode_jpeg(frame.rgb, FRAME_QUALITY)
            message = pack(
                REAL if frame.is_real else PREDICTED, 0, frame.number & 0xFFFF, age_s, jpeg
            )
            for viewer in watching:
                viewer.enqueue(message)

    def _make_state(self) -> dict[str, Any]:
        return {
            'type': 'state',
            'operator': self._operator.number if self._operator else None,
            'viewers': len(self._viewers),
            'last_command': self._last_command,
            **self._stack.make_state(),
        }

    async def _receive_requests(self, viewer: Viewer) -> None:
        while True:
            message = await viewer.socket.receive()
            if message['type'] == 'websocket.disconnect':
                return
            body = message.get('text') or message.get('bytes') or ''
            try:
                request = parse_request(body)
            except ValueError as error:
                first = str(error).splitlines()[0]
                viewer.enqueue(make_answer(None, CommandResult(False, f'not understood: {first}')))
                if viewer.allow_error():
                    continue
                await viewer.socket.close(POLICY_VIOLATION, 'messages are not understood')
                return
            if not isinstance(request, Estop) and not viewer.allow_request(time.monotonic()):
                await viewer.socket.close(POLICY_VIOLATION, 'too many requests')
                return
            self._handle(viewer, request)

    def _handle(
        self,
        viewer: Viewer,
        request: Request,
    ) -> None:
        match request:
            case ShowPredictions(shown=shown):
                viewer.shows_predictions = shown
                self._update_stack()
                result = CommandResult(True, 'shown' if shown else 'closed')
            case TakeControl(force=force):
                result = self._take_control(viewer, force)
            case ReleaseControl():
                if self._operator is viewer:
                    self._operator = None
                result = CommandResult(True, 'view-only')
            case _:
                if not isinstance(request, Estop) and self._operator is not viewer:
                    result = CommandResult(False, 'view-only: take control first')
                else:
                    self._start_command(viewer, request)
                    return
        viewer.enqueue(make_answer(request.id, result))

    def _take_control(self, viewer: Viewer, force: bool) -> CommandResult:
        if self._operator not in (None, viewer) and not force:
            return CommandResult(False, 'another tab is in control')
        self._operator = viewer
        return CommandResult(True, 'in control')

    def _start_command(self, viewer: Viewer, command: RobotCommand) -> None:
        """Start a command and answer with what comes of it, or that nothing came in time."""
        loop = asyncio.get_running_loop()
        is_answered = False

        def answer(result: CommandResult) -> None:
            nonlocal is_answered
            if is_answered:
                return
            is_answered = True
            timer.cancel()
            self._last_command = f'{command.name}: {result.message}'
            viewer.enqueue(make_answer(command.id, result))

        def answer_from_thread(result: CommandResult) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits for the answer
                loop.call_soon_threadsafe(answer, result)

        late = CommandResult(
            False, f'no answer within {RESULT_TIMEOUT_S:g} s; watch the state, it may have worked'
        )
        timer = loop.call_later(RESULT_TIMEOUT_S, answer, late)
        try:
            self._execute(command, answer_from_thread)
        except Exception as error:  # noqa: BLE001 - recorded, and the operator must know
            self._on_error(error)
            answer(CommandResult(False, f'could not be sent: {error}'))

    def _update_stack(self) -> None:
        """Tell the stack's client how many look."""
        viewers = self._viewers.values()
        self._stack.set_viewers(
            len(viewers), wants_predictions=any(viewer.shows_predictions for viewer in viewers)
        )
        if viewers:
            self._has_viewers.set()
        else:
            self._has_viewers.clear()


def make_answer(request_id: int | None, result: CommandResult) -> str:
    return json.dumps(
        {
            'type': 'answer',
            'id': request_id,
            'success': result.success,
            'message': result.message,
        }
    )


def pack(kind: int, index: int, number: int, age_s: float | None, payload: bytes) -> bytes:
    """Return a binary message of the page; an unknown age is NaN."""
    return struct.pack('<BBHf', kind, index, number, np.nan if age_s is None else age_s) + payload


def pack_poses(poses: Mapping[str, Any]) -> bytes:
    """Pack bodies, has a ghost, tools, rows (uint8), share (float32), then float32 arrays."""
    ghost, paths = poses['ghost'], poses['paths']
    bodies = poses['bodies']
    head = struct.pack(
        '<BBBBf', len(bodies), ghost is not None, paths.shape[0], paths.shape[1], poses['share']
    )
    arrays = [bodies, *([] if ghost is None else [ghost]), paths]
    payload = head + b''.join(np.ascontiguousarray(each, '<f4').tobytes() for each in arrays)
    return pack(POSES, 0, 0, poses['age_s'], payload)
