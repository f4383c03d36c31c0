"""Serve Long-WAM's YAM policy over HTTP: a program to run next to the weights.

The release has no policy server. This file needs only numpy: copy it to the machine of the
weights and run it in their environment.

    python long_wam.py --policy longwam.runtime:create_policy --argument checkpoint=/models/yam
    python long_wam.py --policy hold        # no weights: every chunk repeats the state

`--policy MODULE:FUNCTION` names what makes the policy, an object with the three operations of the
release: reset(episode, instruction), observe(episode, step, observation) for every control step,
and infer(anchor), which returns [32 14]. The robot's side is the server profile `long_wam_yam`.

    POST /reset    {instruction, session_id} -> {status, action_horizon, control_hz, history_steps}
    POST /observe  {session_id, step, top_cam, left_cam, right_cam} -> {step}
    POST /act      {session_id, step, cameras, state [14], instruction} -> {actions, dt_ms, anchor}
    GET  /health   -> {status, action_horizon, control_hz, history_steps}

A camera has one image [h w 3], or up to four consecutive ones [T h w 3] of which `step` is the
newest. /act observes its own step unless it was observed; a step that was observed is not observed
again, so a repeated request is harmless. An unknown session or a gap in the steps is answered with
409: reset. Arrays are maps with __numpy__ (base64), dtype and shape.
"""

import argparse
import base64
import importlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

CAMERAS = {'top_cam': 'top', 'left_cam': 'left_wrist', 'right_cam': 'right_wrist'}
STATE_SIZE, MAX_FRAMES = 14, 4
INFO = {'action_horizon': 32, 'control_hz': 30.0, 'history_steps': 48}
MAX_BODY_BYTES = 64 * 1024 * 1024
DTYPES = ('|u1', '<f4', '<f8')


class RequestError(Exception):
    """Report a request that cannot be answered, with its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class HoldPolicy:
    """Repeat the newest state: a policy without weights, to try the connection."""

    def reset(self, episode: str, instruction: str) -> None:
        self.state = np.zeros(STATE_SIZE, np.float32)

    def observe(self, episode: str, step: int, observation: Mapping[str, Any]) -> None:
        self.state = observation['observation/state']

    def infer(self, anchor: int) -> np.ndarray:
        return np.tile(self.state, (INFO['action_horizon'], 1))


class PolicyService:
    """Answer the operations with one policy, one request at a time."""

    def __init__(self, policy: Any) -> None:
        self._policy, self._lock = policy, threading.Lock()
        self._session, self._instruction, self._step = '', '', -1
        self._state = np.zeros(STATE_SIZE, np.float32)

    def handle(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; raises RequestError."""
        operations: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            '/reset': self._reset,
            '/observe': self._observe,
            '/act': self._act,
        }
        if path not in operations:
            raise RequestError(404, f'no operation {path}; want {", ".join(operations)}')
        with self._lock:
            return operations[path](message)

    def _reset(self, message: Mapping[str, Any]) -> dict[str, Any]:
        session, instruction = (read_text(message, key) for key in ('session_id', 'instruction'))
        self._session, self._instruction, self._step = '', instruction, -1
        self._policy.reset(session, instruction)
        self._session = session
        return {'status': 'ok', **INFO}

    def _observe(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self._check_session(message)
        self._observe_frames(message)
        return {'step': self._step}

    def _act(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self._check_session(message)
        instruction = read_text(message, 'instruction')
        if instruction != self._instruction:
            raise RequestError(409, f'the session has another instruction: {self._instruction!r}')
        state = message.get('state')
        if (
            not isinstance(state, np.ndarray)
            or state.shape != (STATE_SIZE,)
            or state.dtype.kind != 'f'
            or not np.isfinite(state).all()
        ):
            raise RequestError(400, f'state: want {STATE_SIZE} finite numbers')
        self._state = state.astype(np.float32)
        self._observe_frames(message)
        started_s = time.perf_counter()
        actions = np.asarray(self._policy.infer(self._step), np.float32)
        if actions.ndim != 2 or actions.shape[1] != STATE_SIZE or not np.isfinite(actions).all():
            raise RequestError(500, f'the policy returned actions {list(actions.shape)}')
        dt_ms = 1e3 * (time.perf_counter() - started_s)
        return {'actions': actions, 'dt_ms': dt_ms, 'anchor': self._step}

    def _check_session(self, message: Mapping[str, Any]) -> None:
        session = read_text(message, 'session_id')
        if not self._session or session != self._session:
            raise RequestError(409, f'no session {session!r}: send /reset first')

    def _observe_frames(self, message: Mapping[str, Any]) -> None:
        """Give the policy the steps that it has not seen."""
        step = message.get('step')
        if type(step) is not int or step < 0:
            raise RequestError(400, f'step: want a number of at least 0, got {step!r:.40}')
        views = {name: read_frames(message, key) for key, name in CAMERAS.items()}
        count = len(next(iter(views.values())))
        if any(len(frames) != count for frames in views.values()):
            raise RequestError(400, 'want the same number of images of each camera')
        first = step - count + 1
        if first > self._step + 1 or step < self._step:
            raise RequestError(
                409, f'steps {first} to {step}, the next one is {self._step + 1}: send /reset'
            )
        for number in range(max(first, self._step + 1), step + 1):
            images = {
                f'observation/{name}': frames[number - first] for name, frames in views.items()
            }
            self._policy.observe(
                self._session, number, {**images, 'observation/state': self._state}
            )
            self._step = number


def read_text(message: Mapping[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not value:
        raise RequestError(400, f'missing required field: {key} (a text)')
    return value


def read_frames(message: Mapping[str, Any], key: str) -> np.ndarray:
    """Return uint8 [T h w 3]."""
    value = message.get(key)
    if (
        not isinstance(value, np.ndarray)
        or value.dtype != np.uint8
        or value.ndim not in (3, 4)
        or value.shape[-1] != 3
        or not value.size
        or (value.ndim == 4 and len(value) > MAX_FRAMES)
    ):
        raise RequestError(400, f'{key}: want images uint8 [h w 3], or up to {MAX_FRAMES} of them')
    return value[None] if value.ndim == 3 else value


def encode(value: object) -> dict[str, Any]:
    assert isinstance(value, np.ndarray)
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {'__numpy__': data, 'dtype': value.dtype.str, 'shape': value.shape}


def decode(found: dict[str, Any]) -> Any:
    if '__numpy__' not in found:
        return found
    dtype, shape = found.get('dtype'), found.get('shape')
    if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > MAX_FRAMES:
        raise ValueError(f'array of dtype {dtype!r:.20} and shape {shape!r:.60}')
    data = base64.b64decode(found['__numpy__'], validate=True)
    if not all(type(side) is int and side >= 0 for side in shape) or (
        math.prod(shape) * np.dtype(dtype).itemsize != len(data)
    ):
        raise ValueError(f'array {dtype} {shape} with {len(data)} bytes')
    return np.frombuffer(data, dtype).reshape(shape)


def make_handler(service: PolicyService) -> type[BaseHTTPRequestHandler]:

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        timeout = 60.0  # s without a byte: the connection is dropped

        def do_GET(self) -> None:
            if self.path == '/health':
                self._respond(200, {'status': 'ok', **INFO})
            else:
                self._respond(404, {'error': f'no page {self.path}; want /health'})

        def do_POST(self) -> None:
            try:
                self._respond(200, service.handle(self.path, self._read_message()))
            except RequestError as error:
                self._respond(error.status, {'error': str(error)})
            except Exception as error:  # of the policy: the caller has to know it
                self.log_error('%s failed: %r', self.path, error)
                self._respond(500, {'error': f'inference failed: {error}'})

        def _read_message(self) -> dict[str, Any]:
            size = self.headers.get('Content-Length', '')
            if not size.isdecimal() or int(size) > MAX_BODY_BYTES:
                self.close_connection = True
                raise RequestError(413, f'want a body of at most {MAX_BODY_BYTES} bytes')
            try:
                message = json.loads(self.rfile.read(int(size)), object_hook=decode)
            except (ValueError, TypeError, RecursionError) as error:
                raise RequestError(400, f'the body is no JSON of this protocol: {error}') from None
            if not isinstance(message, dict):
                raise RequestError(400, 'the body is no JSON object')
            return message

        def _respond(self, status: int, answer: Mapping[str, Any]) -> None:
            body = json.dumps(answer, default=encode).encode()
            self.send_response(status)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def load_policy(name: str, arguments: Sequence[str]) -> Any:
    """Return the policy that MODULE:FUNCTION makes from KEY=VALUE arguments."""
    if name == 'hold':
        return HoldPolicy()
    module, _, function = name.partition(':')
    values = dict(argument.split('=', 1) for argument in arguments)
    return getattr(importlib.import_module(module), function)(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description='Serve the YAM policy of Long-WAM over HTTP.')
    parser.add_argument('--policy', required=True, metavar='MODULE:FUNCTION', help='or: hold')
    parser.add_argument('--argument', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--host', default='127.0.0.1')
    parser.add_argument('--port', type=int, default=8202)
    options = parser.parse_args(argv)
    service = PolicyService(load_policy(options.policy, options.argument))
    server = ThreadingHTTPServer((options.host, options.port), make_handler(service))
    print(f'listening on http://{options.host}:{server.server_address[1]}', flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == '__main__':
    sys.exit(main())
