"""ZeroMQ server of Isaac-GR00T's protocol: ping, get_modality_config, reset, get_action.

Requests of several clients are executed together, which GR00T's own server cannot. `kill` is
refused: who reaches the port must not be able to stop a robot's policy.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import zmq
import zmq.asyncio

from wam_policy.servers.codecs import groot_codec
from wam_policy.servers.codecs.codec_table import check_request
from wam_policy.servers.codecs.groot_codec import ModalityConfig
from wam_policy.servers.codecs.wire_arrays import MalformedMessage
from wam_policy.servers.request_queue import RequestQueue
from wam_policy.servers.server_profile import ServerProfile
from wam_policy.servers.server_token import is_token
from wam_policy.servers.session_manager import ConnectionId
from wam_policy.servers.transports.websocket_server import ServerLimits

ENDPOINTS = ('ping', 'get_modality_config', 'reset', 'get_action')


class ZmqServer:
    """Serve the sessions of one profile over ZeroMQ until `stop`."""

    def __init__(
        self,
        requests: RequestQueue,
        profile: ServerProfile,
        *,
        token: str = '',
        limits: ServerLimits | None = None,
    ) -> None:
        self._requests, self._profile, self._token = requests, profile, token
        self._limits = limits or ServerLimits()
        self._modalities = make_modality_configs(profile)
        self._connection_ids: OrderedDict[bytes, ConnectionId] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self, host: str, port: int, on_ready: Callable[[int], None]) -> None:
        """Listen until `stop`; call `on_ready` with the port. Raises OSError if it is in use."""
        context = zmq.asyncio.Context()
        sock = context.socket(zmq.ROUTER)
        try:
            sock.setsockopt(zmq.LINGER, 1000)  # ms, for answers not sent yet
            sock.setsockopt(zmq.MAXMSGSIZE, self._limits.max_message_bytes)
            sock.setsockopt(zmq.RCVHWM, self._limits.max_connections)
            if port:
                sock.bind(f'tcp://{host}:{port}')
            else:
                port = sock.bind_to_random_port(f'tcp://{host}')
            on_ready(port)
            receiving = asyncio.ensure_future(self._receive(sock))
            await self._stopping.wait()
            receiving.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._limits.shutdown_timeout_s)
        except zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from error
        finally:
            sock.close()
            context.term()

    def stop(self) -> None:
        """Answer requests in progress, then stop; call from the event loop's thread."""
        self._stopping.set()

    async def _receive(self, sock: zmq.asyncio.Socket) -> None:
        while True:
            frames = await sock.recv_multipart()
            if len(frames) != 3 or frames[1]:
                continue  # no request of a REQ socket: there is no way to answer
            if len(self._tasks) >= self._limits.max_connections:
                await self._send(sock, frames[0], {'error': 'too many requests in progress'})
                continue
            task = asyncio.ensure_future(self._answer(sock, frames[0], frames[2]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, sock: zmq.asyncio.Socket, client: bytes, body: bytes) -> None:
        try:
            answer = await self._execute(client, body)
        except Exception as error:  # noqa: BLE001  an error of one client must not stop the server
            answer = {'error': str(error) or type(error).__name__}
        await self._send(sock, client, answer)

    async def _send(self, sock: zmq.asyncio.Socket, client: bytes, answer: Any) -> None:
        await sock.send_multipart([client, b'', groot_codec.pack(answer)])

    async def _execute(self, client: bytes, body: bytes) -> Any:
        request = check_request(groot_codec.unpack(body))
        if not is_token(self._token, request.get('api_token', '')):
            return {'error': 'Unauthorized: Invalid API token'}  # in the words of their server
        endpoint = request.get('endpoint', 'get_action')
        if endpoint not in ENDPOINTS:
            raise MalformedMessage(
                f'endpoint {endpoint!r:.80}: want one of {", ".join(ENDPOINTS)}'
            )
        if endpoint == 'ping':
            return {'status': 'ok', 'message': 'Server is running'}
        if endpoint == 'get_modality_config':
            return self._modalities
        message: Mapping[str, Any] = {}
        if endpoint == 'get_action':
            data = check_request(request.get('data'))
            inner = data.get('observation')  # since N1.6; before, data is the observation
            message = check_request(inner) if inner is not None else data
        answer = await asyncio.wrap_future(
            self._requests.submit(
                self._get_connection_id(client),
                self._profile,
                lambda: message,
                endpoint='reset' if endpoint == 'reset' else 'infer',
            )
        )
        return {} if endpoint == 'reset' else answer

    def _get_connection_id(self, client: bytes) -> ConnectionId:
        """Return the id of a client's socket; the one unused for longest makes room for more."""
        if client not in self._connection_ids:
            if len(self._connection_ids) >= self._limits.max_connections:
                self._requests.disconnect(self._connection_ids.popitem(last=False)[1])
            self._connection_ids[client] = self._requests.connect()
        self._connection_ids.move_to_end(client)
        return self._connection_ids[client]


def make_modality_configs(profile: ServerProfile) -> dict[str, ModalityConfig]:
    """Return names and times of images, state, actions and text, as GR00T's server states them."""

    def make(keys: list[Any], times: list[int]) -> ModalityConfig:
        names = list(dict.fromkeys(str(key[-1]) for key in keys if key))
        return ModalityConfig({'delta_indices': times, 'modality_keys': names})

    return {
        'video': make(list(profile.cameras.values()), [0]),
        'state': make([group.key for group in profile.state], [0]),
        'action': make(
            [group.key for group in profile.action_columns], list(range(profile.horizon))
        ),
        'language': make([profile.prompt_key], [0]),
    }
