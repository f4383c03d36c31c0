"""A double of any policy server, made from its profile: it decodes requests and holds the robot.

`fault` makes it fail in one of the ways that servers fail: see FAULTS. What it received is in
`calls` (operation, decoded message).
"""

import http.server
import json
import threading

import numpy as np
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from wam_policy.core.robot import embodiment
from wam_policy.servers import server_profile, value_mapping
from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.mapping import message_template
from wam_policy.servers.mapping.nested_keys import get_nested, set_nested
from wam_policy.servers.mapping.pose_mapping import PoseMapper

TRACEBACK = 'Traceback (most recent call last):\n  File "x"\nRuntimeError: CUDA out of memory'
FAULTS = {  # fault -> the words with which the worker reports it
    'text': 'CUDA out of memory|status 500',
    'type_error': 'failed: no such session',
    'error_key': 'failed: no such session',
    'error_text': "text 'error'",
    'garbage': 'invalid answer',
    'empty': 'invalid answer|missing|want actions',
    'huge': 'limit|1009|while sending|did not answer',
    'nan': 'NaN or infinity|invalid answer',
    'narrow': 'want actions',
    'short': 'want actions',
    'objects': 'invalid answer|want actions|missing',
    'far': r'row 0 is [01]\.\d+ rad from joint',  # poses: the joints share it
    'degrees': 'moves joint|row 0 is|cannot reach',
    'slow': 'did not answer within',
    'vanish': 'closed the connection|while sending|did not answer|no server',
    'half': 'closed the connection|invalid answer|did not answer|parts',
}


class ProfileDouble:
    def __init__(self, name, port=0, sway_rad=0.0, max_answer_bytes=17 << 20):
        self.profile = server_profile.load(name)
        self.robot = embodiment.load_embodiment(self.profile.robot)
        self.poses = PoseMapper(self.profile, self.robot) if self.profile.tools else None
        self.codec, self.sway_rad = CODECS[self.profile.codec], sway_rad
        self.fault, self.calls, self.prompts, self.image_counts = '', [], [], []
        self.huge_bytes, self.closing = max_answer_bytes, threading.Event()
        self.joint_positions = self.robot.home_positions(self.robot.observed)
        self.server = START[self.profile.transport.kind](self, port)
        self.port = self.server.port

    @property
    def url(self):
        schemes = {'http': 'http', 'websocket': 'ws', 'zmq': 'zmq+tcp'}
        return f'{schemes[self.profile.transport.kind]}://127.0.0.1:{self.port}'

    def close(self):
        self.closing.set()
        self.server.close()

    # messages

    def greet(self):
        return self.codec.pack(to_plain(self.profile.configuration))

    def answer(self, route, body):
        """Return (kind of message, bytes): kind is binary, text, vanish or half."""
        message = self.codec.unpack(body) if body else None
        name = self.find_operation(route, message)
        operation = self.profile.operations[name]
        self.calls.append((name, message))
        if self.fault and name == 'infer':
            return self.fail(operation, message)
        if not operation.has_answer:
            return 'none', b''
        answer = {}
        if name == 'infer':
            answer = self.infer(operation, message)
        elif name == 'greet':
            answer = to_plain(self.profile.configuration)
        elif name == 'reset':
            find = find_variable(operation.message, message, 'prompt')
            self.prompts += [] if find is None else [find]
        return 'binary', self.codec.pack(self.with_identity(operation, message, answer))

    def find_operation(self, route, message):
        for name, operation in self.profile.operations.items():
            if route and operation.route == route:
                return name
            if not route and matches(operation.message, message):
                return name
        raise AssertionError(f'no operation for {route} {message!r:.300}')

    def infer(self, operation, message):
        joint_positions = self.read_request(operation, message)
        commanded = joint_positions[
            [self.robot.observed.index(name) for name in self.robot.commanded]
        ]
        self.sway_rad = -self.sway_rad
        ramp = np.linspace(0.0, self.sway_rad, self.profile.horizon)[:, None]
        arms = [self.robot.joint(name).kind != 'gripper' for name in self.robot.commanded]
        targets = commanded + ramp * np.array(arms, float)
        if self.fault == 'far':
            targets[:, 0] += 1.5
        if self.fault == 'degrees':
            targets = np.where(arms, np.degrees(targets) + np.arange(len(targets))[:, None], 0.5)
        if self.fault == 'short':
            targets = targets[: self.profile.horizon // 2]
        return value_mapping.encode_actions(
            self.profile, self.robot, targets, joint_positions, None, self.poses
        )

    def read_request(self, operation, message):
        observation = find_variable(operation.message, message, 'observation')
        if observation is None:  # a server that reads images only
            observation = find_variable(operation.message, message, 'images')
        request = value_mapping.decode_request(self.profile, self.robot, observation)
        self.image_counts.append({key: len(frames) for key, frames in request.views.items()})
        self.prompts += [request.prompt] if request.prompt else []
        known = np.isfinite(request.joint_positions)
        return np.where(known, request.joint_positions, self.joint_positions)

    def with_identity(self, operation, message, answer):
        if operation.id_key is not None:
            answer = dict(answer)
            set_nested(answer, operation.id_key, get_nested(message, operation.id_key))
        return answer

    def fail(self, operation, message):
        fault = self.fault
        if fault in ('vanish', 'half'):
            return fault, b''
        if fault == 'text':
            return 'text', TRACEBACK.encode()
        if fault == 'slow':
            self.closing.wait(2.0)
        stated = {
            'type_error': {'type': 'error', 'message': 'no such session'},
            'error_key': {'error': 'no such session'},
            'error_text': 'error',
            'empty': {},
        }
        if fault in stated:
            return 'binary', self.codec.pack(stated[fault])
        if fault == 'garbage':
            return 'binary', b'\xc1\x00<html>\xff'
        if fault == 'huge':
            return 'binary', bytes(self.huge_bytes)
        if fault == 'objects':
            return 'binary', self.codec.pack({'actions': ['cos\nsystem', {'x': [None]}]})
        answer = self.infer(operation, message)
        if fault in ('nan', 'narrow'):
            answer = corrupt(answer, fault)
        try:
            packed = self.codec.pack(self.with_identity(operation, message, answer))
        except ValueError:  # JSON of other programs has NaN
            packed = json.dumps(answer).encode()
        return 'binary', packed


def corrupt(value, fault):
    """Put NaN into every array, or cut one column off."""
    if isinstance(value, np.ndarray):
        value = value.copy()
        if fault == 'narrow':
            return value[..., :-1]
        value[(0,) * value.ndim] = np.nan
        return value
    if isinstance(value, dict):
        return {key: corrupt(inner, fault) for key, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], float):
        return value[:-1] if fault == 'narrow' else [float('nan'), *value[1:]]
    if isinstance(value, list):
        return [corrupt(inner, fault) for inner in value]
    return value


def to_plain(value):
    if hasattr(value, 'items'):
        return {key: to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def matches(template, message):
    """Return whether every constant of a template is in the message."""
    if isinstance(template, dict):
        return isinstance(message, dict) and all(
            key == message_template.MERGE_KEY
            or (isinstance(inner, str) and inner.startswith('$'))
            or (key in message and matches(inner, message[key]))
            for key, inner in template.items()
        )
    return template == message


def find_variable(template, message, name):
    """Return what stands in a message in the place of a variable; None: nothing does."""
    if template == f'${name}':
        return message
    if isinstance(template, dict):
        for key, inner in template.items():
            part = message if key == message_template.MERGE_KEY else message.get(key)
            found = None if part is None else find_variable(inner, part, name)
            if found is not None:
                return found
    return None


class WebSocketDouble:
    def __init__(self, double, port):
        self.double = double
        self.server = serve(
            self.handle, '127.0.0.1', port, compression=None, max_size=None, close_timeout=0.5
        )
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        if self.double.profile.transport.greets:
            connection.send(self.double.greet())
        try:
            for body in connection:
                kind, answer = self.double.answer('', body)
                if kind == 'vanish':
                    connection.socket.close()
                elif kind == 'half':
                    connection.socket.sendall(b'\x82\x7e\x10\x00half')  # of 4,096 bytes
                    connection.socket.close()
                elif kind == 'text':
                    connection.send(answer.decode())
                elif kind == 'binary':
                    connection.send(answer)
        except ConnectionClosed:
            pass

    def close(self):
        self.server.shutdown()


class HttpDouble:
    def __init__(self, double, port):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                self.respond(*double.answer(f'GET {self.path}', b''))

            def do_POST(self):
                body = self.rfile.read(int(self.headers['Content-Length']))
                self.respond(*double.answer(f'POST {self.path}', body))

            def respond(self, kind, body):
                if kind == 'vanish':
                    self.close_connection = True
                    return
                self.send_response(500 if kind == 'text' else 200)
                size = 4096 if kind == 'half' else len(body)
                self.send_header('Content-Length', str(size))
                self.end_headers()
                self.wfile.write(b'half' if kind == 'half' else body)
                self.close_connection |= kind == 'half'

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # the client went away
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class ZmqDouble:
    def __init__(self, double, port):
        self.double, self.context = double, zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.port = port or self.socket.bind_to_random_port('tcp://127.0.0.1')
        if port:
            self.socket.bind(f'tcp://127.0.0.1:{port}')
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.double.closing.is_set():
            if not self.socket.poll(50):
                continue
            sender, empty, body = self.socket.recv_multipart()
            kind, answer = self.double.answer('', body)
            if kind == 'half':
                self.socket.send_multipart([sender, empty, b'half', b'message'])
            elif kind == 'text':
                self.socket.send_multipart(
                    [sender, empty, self.double.codec.pack({'error': TRACEBACK})]
                )
            elif kind == 'binary':
                self.socket.send_multipart([sender, empty, answer])
        self.socket.close(0)
        self.context.term()

    def close(self):
        self.thread.join(5)


START = {'websocket': WebSocketDouble, 'http': HttpDouble, 'zmq': ZmqDouble}
