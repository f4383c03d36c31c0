"""The page's web server: files, log-in and one WebSocket, in a thread of its own.

Everything that the page loads comes from this package; the answer's headers forbid anything else,
and forbid other pages to frame it.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from wam_console.access import AccessControl
from wam_console.commands import MAX_MESSAGE_BYTES
from wam_console.viewer_hub import ViewerHub

STATIC_DIR = Path(__file__).parent / 'static'
PORT_TRIES = 10
LOGIN_DELAY_S = 1.0  # after a wrong token, for everybody: guessing takes for ever
SHUTDOWN_TIMEOUT_S = 3.0
FORBIDDEN = 403
HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    'X-Frame-Options': 'DENY',
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-cache',
}


def bind_socket(address: str, port: int) -> socket.socket:
    """Return a socket that listens on `port`, or on the next free one; OSError if none is."""
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    last = port + PORT_TRIES - 1 if port else 0
    for candidate in range(port, min(last, 65535) + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, candidate))
            listener.listen(64)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise OSError(
                    f'cannot listen on {address} port {candidate}: {error.strerror}'
                ) from error
        else:
            return listener
    raise OSError(
        f'{address}: ports {port} to {last} are all in use; free one or set the parameter port'
    )


def make_app(access: AccessControl, hub: ViewerHub, cookie_name: str) -> FastAPI:
    """Return the web application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    login_lock = asyncio.Lock()

    @app.middleware('http')
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        host = request.headers.get('host', '')
        if not access.is_known_host(host):
            return PlainTextResponse('unknown host\n', FORBIDDEN)
        if request.method not in ('GET', 'HEAD') and not access.is_same_origin(
            request.headers.get('origin', ''), host
        ):
            return PlainTextResponse('this page may not be used from another origin\n', FORBIDDEN)
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.get('/')
    async def get_page(request: Request) -> Response:
        logged_in = access.is_logged_in(request.cookies, cookie_name)
        return FileResponse(STATIC_DIR / ('index.html' if logged_in else 'login.html'))

    @app.post('/login')
    async def log_in(request: Request) -> Response:
        body = await read_limited(request)
        token = parse_qs(body.decode('utf-8', 'replace')).get('token', [''])[0]
        async with login_lock:
            session = access.log_in(token) if access.needs_token else None
            if session is None:
                await asyncio.sleep(LOGIN_DELAY_S)
                return FileResponse(STATIC_DIR / 'login.html', FORBIDDEN)
        response = RedirectResponse('/', 303)
        response.set_cookie(cookie_name, session, httponly=True, samesite='strict')
        return response

    @app.websocket('/ws')
    async def open_socket(websocket: WebSocket) -> None:
        headers = websocket.headers
        host = headers.get('host', '')
        if not (
            access.is_known_host(host)
            and access.is_same_origin(headers.get('origin', ''), host)
            and access.is_logged_in(websocket.cookies, cookie_name)
        ):
            await websocket.close()  # before it is accepted: the browser gets 403
            return
        await websocket.accept()
        await hub.serve_viewer(websocket)

    app.mount('/static', StaticFiles(directory=STATIC_DIR), name='static')
    return app


async def read_limited(request: Request) -> bytes:
    """Return at most MAX_MESSAGE_BYTES of a request's body; the rest is not read."""
    body = b''
    async for part in request.stream():
        body += part
        if len(body) > MAX_MESSAGE_BYTES:
            return b''
    return body


class WebServer:
    """Run the application in a thread until `stop`."""

    def __init__(self, listener: socket.socket, access: AccessControl, hub: ViewerHub) -> None:
        self._listener, self._hub = listener, hub
        host, port = listener.getsockname()[:2]
        self.port = port
        shown = f'[{host}]' if ':' in host else host
        self.url = f'http://{shown}:{port}'
        config = uvicorn.Config(
            make_app(access, hub, f'wam_console_{port}'),
            log_config=None,
            access_log=False,
            lifespan='off',
            ws='websockets-sansio',
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
            limit_concurrency=100,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name='web', daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every connection; nothing is sent to the robot."""
        self._server.should_exit = True
        self._thread.join(SHUTDOWN_TIMEOUT_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        broadcast = asyncio.create_task(self._hub.run_broadcast())
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            broadcast.cancel()
