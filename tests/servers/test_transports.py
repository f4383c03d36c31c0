"""All transports keep one contract, whatever the peer does; see transports/policy_transport.py."""

import socket
import threading
import time

import pytest
import zmq
from websockets.sync.server import serve

from wam_policy.servers.transports import policy_transport
from wam_policy.servers.transports.http_client import HttpClient
from wam_policy.servers.transports.policy_transport import (
    ConnectionRejected,
    ServerUnreachable,
    TransportError,
    TransportSettings,
)
from wam_policy.servers.transports.websocket_client import WebSocketClient
from wam_policy.servers.transports.zmq_client import ZmqClient

CLIENTS = {
    'ws': ('ws', WebSocketClient),
    'http': ('http', HttpClient),
    'zmq': ('zmq+tcp', ZmqClient),
}
SETTINGS = TransportSettings(greets=False, connect_timeout_s=2.0, max_answer_bytes=1 << 16)
TIMEOUT_S = 0.5
HTTP_HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n'


class EchoServer:
    """Answer every message with itself, or as `fault` says."""

    def __init__(self, kind, port=0):
        self.fault, self.closing, self.seen = '', threading.Event(), []
        getattr(self, f'start_{kind}')(port)

    def start_ws(self, port):
        def handle(connection):
            for body in connection:
                self.seen.append(body)
                if self.fault == 'close':
                    connection.close(1011, 'failed')
                elif self.fault == 'vanish':
                    connection.socket.shutdown(socket.SHUT_RDWR)
                elif self.fault == 'half':
                    connection.socket.sendall(b'\x82\x7e\x10\x00half')
                    connection.socket.shutdown(socket.SHUT_RDWR)
                elif self.fault == 'garbage':
                    connection.socket.sendall(b'\xff\xff\xff' * 9)
                else:
                    self.answer(body, connection.send)

        server = serve(handle, '127.0.0.1', port, compression=None, max_size=None)
        self.port, self.stop = server.socket.getsockname()[1], server.shutdown
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def start_http(self, port):
        listener = socket.create_server(('127.0.0.1', port))
        self.port, self.stop = listener.getsockname()[1], listener.close

        def accept():
            while not self.closing.is_set():
                try:
                    near = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=self.handle_http, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def handle_http(self, near):
        with near, near.makefile('rb') as stream:
            while line := stream.readline():
                size = 0
                assert line.startswith(b'POST /echo')
                while (header := stream.readline().strip()) != b'':
                    name, _, value = header.partition(b':')
                    size = int(value) if name.lower() == b'content-length' else size
                body = stream.read(size)
                self.seen.append(body)
                if self.fault in ('close', 'vanish'):
                    return
                if self.fault == 'half':
                    near.sendall(HTTP_HEAD % 4096 + b'half')
                    return
                if self.fault == 'garbage':
                    near.sendall(b'\xff\xff\xff' * 9 + b'\r\n\r\n')
                    return
                if self.fault == 'drip':
                    near.sendall(HTTP_HEAD % 4096)
                    while not self.closing.wait(0.1):
                        try:
                            near.sendall(b'x')
                        except OSError:
                            return
                try:
                    self.answer(body, lambda raw: near.sendall(HTTP_HEAD % len(raw) + raw))
                except OSError:
                    return
                if self.fault == 'idle':
                    return

    def start_zmq(self, port):
        context = zmq.Context()
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.bind(f'tcp://127.0.0.1:{port or "*"}')
        self.port = int(router.getsockopt(zmq.LAST_ENDPOINT).rpartition(b':')[2])

        def run():
            while not self.closing.is_set():
                if not router.poll(20):
                    continue
                sender, empty, body = router.recv_multipart()
                self.seen.append(body)
                if self.fault in ('half', 'garbage'):
                    router.send_multipart([sender, empty, b'two', b'parts'])
                elif self.fault not in ('close', 'vanish'):
                    self.answer(
                        body,
                        lambda raw, to=(sender, empty): router.send_multipart([*to, raw]),
                    )
            router.close(0)
            context.term()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.stop = thread.join

    def answer(self, body, send):
        if self.fault == 'silent':
            self.closing.wait(2 * TIMEOUT_S)  # the answer comes, too late
        send(bytes(1 << 17) if self.fault == 'huge' else body)

    def close(self):
        self.closing.set()
        self.stop()


@pytest.fixture(params=CLIENTS)
def kind(request):
    return request.param


@pytest.fixture
def server(kind):
    made = EchoServer(kind)
    yield made
    made.close()


def connect(kind, port, **changes):
    scheme, client = CLIENTS[kind]
    return client(
        f'{scheme}://127.0.0.1:{port}',
        TransportSettings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__slots__}, **changes}),
    )


def echo(client, body, timeout_s=5.0):
    return client.exchange('POST /echo', body, timeout_s)


def test_messages_of_any_size_come_back(kind, server):
    client = connect(kind, server.port)
    for body in (b'a', b'\x00\xff' * 100, bytes(50_000)):
        reply = echo(client, body)
        assert reply.body == body and reply.status == 200 and not reply.is_text
    client.close()
    assert not client.is_open
    with pytest.raises(TransportError, match='the connection is closed'):
        echo(client, b'x')
    client.close()  # a second time has no effect


@pytest.mark.parametrize('fault', ['close', 'vanish', 'half', 'garbage', 'huge', 'silent', 'drip'])
def test_every_failure_is_an_error_in_time_and_nothing_late_is_read(kind, server, fault):
    if fault == 'drip' and kind != 'http':
        fault = 'silent'  # messages of the other two arrive whole
    client = connect(kind, server.port)
    echo(client, b'before')
    server.fault = fault
    started_s = time.monotonic()
    with pytest.raises(TransportError) as raised:
        echo(client, b'old', TIMEOUT_S)
    assert time.monotonic() - started_s < TIMEOUT_S + 5.0
    assert type(raised.value) is TransportError and not client.is_open
    if fault in ('silent', 'drip'):
        assert f'did not answer within {TIMEOUT_S:g} s' in str(raised.value)
    with pytest.raises(TransportError):
        echo(client, b'again')
    server.fault = ''
    again = connect(kind, server.port)
    time.sleep(TIMEOUT_S)  # by now the late answer has come
    assert echo(again, b'new').body == b'new'
    again.close()


def test_an_absent_server_is_unreachable(kind, server):
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServerUnreachable, match='no server at'):
        connect(kind, port, connect_timeout_s=0.3)


def test_a_silent_port_is_unreachable():
    with socket.create_server(('127.0.0.1', 0)) as silent:
        for kind in ('ws', 'zmq'):  # HTTP has no handshake: its first request fails
            with pytest.raises(ServerUnreachable, match='no server at'):
                connect(kind, silent.getsockname()[1], connect_timeout_s=0.3)


def test_http_connects_again_after_an_idle_close_without_repeating_a_request():
    server = EchoServer('http')
    server.fault = 'idle'
    client = connect('http', server.port)
    for body in (b'1', b'2', b'3'):
        assert echo(client, body).body == body
        time.sleep(0.05)  # until the close has arrived
    assert server.seen == [b'1', b'2', b'3']
    client.close()
    server.close()


def test_http_repeats_only_what_may_be_repeated():
    for may_repeat, calls in ((False, 1), (True, 2)):
        server = EchoServer('http')
        client = connect('http', server.port, may_repeat=may_repeat)
        echo(client, b'first')
        server.fault = 'vanish'
        with pytest.raises(TransportError):
            echo(client, b'second')
        assert server.seen.count(b'second') == calls
        server.close()


def test_a_refused_token_is_no_matter_of_retries():
    for status in policy_transport.TOKEN_STATUSES:
        error = policy_transport.make_status_error('http://x', status)
        assert isinstance(error, ConnectionRejected) and 'WAM_TOKEN' in str(error)
    assert isinstance(policy_transport.make_status_error('x', 503), ServerUnreachable)
