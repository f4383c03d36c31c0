"""Who may look and who may press: the page's server without ROS and without a browser."""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytest.importorskip('rclpy', reason='needs a ROS 2 environment: run ./wam test')
from wam_console import viewer_hub, web_server
from wam_console.access import AccessControl
from wam_console.command_executor import CommandResult
from wam_console.viewer_hub import Viewer, ViewerHub
from wam_console.web_server import STATIC_DIR, WebServer, bind_socket

TOKEN = '0123456789abcdef'


class FakeView:
    """Show two bodies, one camera and no news."""

    def __init__(self):
        self.viewers, self.wants_predictions = 0, False

    def describe(self):
        return {'title': 'a robot', 'cameras': ['head']}

    def make_state(self):
        return {'motion': {'state': 'HOLDING', 'estop': False, 'age_s': 0.01}}

    def make_poses(self):
        bodies, paths = np.zeros((2, 7), np.float32), np.zeros((1, 3, 3), np.float32)
        return {'age_s': None, 'bodies': bodies, 'ghost': None, 'paths': paths, 'share': 0.5}

    def make_objects(self):
        return []

    def take_image(self, camera):
        return b'jpeg', 0.04

    def take_compared_frames(self):
        return []

    def set_viewers(self, count, *, wants_predictions):
        self.viewers, self.wants_predictions = count, wants_predictions


class Page:
    """A server on a free port, and what it executed."""

    def __init__(self, token=''):
        self.executed, self.errors, self.view = [], [], FakeView()
        self.answers = True  # False: services never answer
        hub = ViewerHub(self.view, self.execute, self.errors.append)
        listener = bind_socket('127.0.0.1', 0)
        self.server = WebServer(listener, AccessControl('127.0.0.1', token), hub)
        self.host = f'127.0.0.1:{self.server.port}'
        self.server.start()

    def execute(self, command, on_result):
        self.executed.append(command)
        if self.answers:  # from another thread, as a service's answer comes
            threading.Thread(target=on_result, args=(CommandResult(True, 'done'),)).start()

    def open(self, origin='same', host=None, cookie=''):
        headers = {'Host': host} if host else {}
        if cookie:
            headers['Cookie'] = cookie
        return connect(
            f'ws://{self.host}/ws',
            origin=f'http://{self.host}' if origin == 'same' else origin,
            additional_headers=headers,
            compression=None,
        )

    def fetch(self, method='GET', path='/', body=None, **headers):
        connection = http.client.HTTPConnection(self.host, timeout=10)
        given = {name.replace('_', '-'): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response, text


@pytest.fixture
def page():
    made = Page()
    yield made
    made.server.stop()
    assert made.errors == []


def ask(client, name, number=1, **values):
    """Send a request and return its answer."""
    client.send(json.dumps({'id': number, 'name': name, **values}))
    return read(client, 'answer', number)


def read(client, kind, number=None):
    while True:
        message = client.recv(timeout=10)
        if isinstance(message, str):
            found = json.loads(message)
            if found['type'] == kind and (number is None or found['id'] == number):
                return found


def test_a_viewer_gets_description_state_poses_and_images(page):
    with page.open() as client:
        kinds, texts = set(), set()
        while kinds != {viewer_hub.IMAGE, viewer_hub.POSES} or texts != {
            'hello', 'state', 'objects'
        }:  # fmt: skip
            message = client.recv(timeout=10)
            if isinstance(message, str):
                texts.add(json.loads(message)['type'])
            else:
                kinds.add(message[0])
        assert page.view.viewers == 1
    assert page.executed == []


@pytest.mark.parametrize('origin', ['http://evil.example', 'null', None, 'http://127.0.0.1:1'])
def test_a_foreign_origin_gets_no_socket(page, origin):
    with pytest.raises(InvalidStatus) as refused:
        page.open(origin=origin)
    assert refused.value.response.status_code == 403 and page.view.viewers == 0


def test_a_foreign_name_of_this_machine_gets_nothing(page):
    """A page of another name that resolves to 127.0.0.1 would be of the same origin."""
    with pytest.raises(InvalidStatus):
        page.open(origin='http://evil.example', host='evil.example')
    assert page.fetch(Host='evil.example')[0].status == 403


def test_the_page_loads_nothing_from_elsewhere_and_cannot_be_framed(page):
    response, text = page.fetch()
    policy = response.headers['Content-Security-Policy']
    assert response.status == 200 and 'id="estop"' in text
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert 'unsafe' not in policy and response.headers['X-Frame-Options'] == 'DENY'
    for path in STATIC_DIR.iterdir():
        source = path.read_text()
        outside = re.findall(r'https?://[^\s"\'`]+', source)
        assert [url for url in outside if not url.startswith('http://www.w3.org/')] == [], path
        # text of ROS is set as text: none of what makes markup of a string is used
        assert not re.search(
            r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(', source
        )


def test_only_the_tab_in_control_commands_and_control_ends_with_it(page):
    with page.open() as first, page.open() as second:
        assert not ask(first, 'hold')['success']
        assert ask(first, 'take_control', 2)['success']
        assert ask(first, 'hold', 3)['success']
        assert not ask(second, 'take_control')['success']
        assert 'view-only' in ask(second, 'disable', 2)['message']
        assert ask(second, 'take_control', 3, force=True)['success']
        assert not ask(first, 'hold', 4)['success']
        second.close()
        deadline_s = time.monotonic() + 10
        while read(first, 'state')['operator'] is not None:
            assert time.monotonic() < deadline_s
    assert [command.name for command in page.executed] == ['hold']


def test_every_tab_may_stop(page):
    with page.open() as operator, page.open() as viewer:
        ask(operator, 'take_control')
        assert ask(viewer, 'estop')['success']
    assert [command.name for command in page.executed] == ['estop']


def test_nothing_is_sent_when_tabs_come_and_go(page):
    for _ in range(3):
        with page.open() as client:
            ask(client, 'take_control')
            ask(client, 'show_predictions', 2, shown=True)
            assert page.view.wants_predictions
    deadline_s = time.monotonic() + 10
    while page.view.viewers:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert page.executed == [] and not page.view.wants_predictions


def test_what_is_no_request_presses_nothing(page):
    for message in (
        'no json', b'\xff\x00', '[]', '{}', '{"id": 1, "name": "shutdown"}',
        '{"id": 1, "name": "enable"}', '{"id": 1, "name": "enable", "confirmed": false}',
        '{"id": 1, "name": "enable", "confirmed": 1}', '{"id": 1, "name": "reset"}',
        '{"id": 1, "name": "instruct", "text": ""}', '{"id": -1, "name": "hold"}',
        '{"id": 1, "name": "instruct", "text": "' + 'x' * 401 + '"}',
        '{"id": 1, "name": "hold", "update_cb": []}', '{"id": 1, "name": "hold", "viewer": 1}',
    ):  # fmt: skip
        with page.open() as client:
            ask(client, 'take_control', 7)
            client.send(message)
            answer = read(client, 'answer')
            assert not answer['success'] and 'not understood' in answer['message'], message
    assert page.executed == []


def test_a_client_that_goes_on_with_nonsense_or_too_fast_is_closed(page):
    with page.open() as patient:
        for attack in (['?'] * 10, ['{"id": 1, "name": "hold"}'] * 200, ['x' * 100_000]):
            with page.open() as hostile, pytest.raises(ConnectionClosed):
                for message in attack:
                    hostile.send(message)
                while True:
                    hostile.recv(timeout=10)
        assert read(patient, 'state')['motion']['state'] == 'HOLDING'
    assert page.executed == []


def test_more_viewers_than_a_robot_has_people_are_refused(page):
    with ExitStack() as stack:
        for _ in range(viewer_hub.MAX_VIEWERS):
            stack.enter_context(page.open())
        extra = stack.enter_context(page.open())
        with pytest.raises(ConnectionClosed):
            while True:
                extra.recv(timeout=10)


def test_a_service_without_an_answer_is_reported(page, monkeypatch):
    monkeypatch.setattr(viewer_hub, 'RESULT_TIMEOUT_S', 0.05)
    page.answers = False
    with page.open() as client:
        ask(client, 'take_control')
        answer = ask(client, 'next_scene', 2)
        assert not answer['success'] and 'no answer within' in answer['message']


def test_a_token_is_asked_for_once_and_wrong_ones_are_refused(monkeypatch):
    monkeypatch.setattr(web_server, 'LOGIN_DELAY_S', 0.0)
    page = Page(TOKEN)
    try:
        assert 'name="token"' in page.fetch()[1]
        with pytest.raises(InvalidStatus):
            page.open()
        origin = {'Origin': f'http://{page.host}'}
        assert page.fetch('POST', '/login', 'token=wrong', **origin)[0].status == 403
        foreign = page.fetch('POST', '/login', f'token={TOKEN}', Origin='http://evil.example')
        assert foreign[0].status == 403
        response, _ = page.fetch('POST', '/login', f'token={TOKEN}', **origin)
        cookie = response.headers['Set-Cookie']
        assert response.status == 303 and 'HttpOnly' in cookie and 'SameSite=strict' in cookie
        with page.open(cookie=cookie.split(';')[0]) as client:
            assert read(client, 'hello')['title'] == 'a robot'
    finally:
        page.server.stop()


@pytest.mark.parametrize(
    ('address', 'token', 'words'),
    [('0.0.0.0', '', 'needs a token'), ('127.0.0.1', 'short', 'at least 16')],
)
def test_an_open_address_without_a_good_token_is_refused(address, token, words):
    with pytest.raises(ValueError, match=words):
        AccessControl(address, token)


def test_a_busy_port_is_replaced_by_the_next_or_named(monkeypatch):
    with socket.socket() as first:
        first.bind(('127.0.0.1', 0))
        first.listen()
        port = first.getsockname()[1]
        second = bind_socket('127.0.0.1', port)
        assert second.getsockname()[1] > port
        second.close()
        monkeypatch.setattr(web_server, 'PORT_TRIES', 1)
        with pytest.raises(OSError, match=f'ports {port} to {port} are all in use'):
            bind_socket('127.0.0.1', port)
    with pytest.raises(OSError, match='cannot listen on 192.0.2.1'):
        bind_socket('192.0.2.1', 0)


def test_a_slow_browser_gets_the_newest_and_no_backlog():
    import asyncio

    async def fill():
        viewer = Viewer(1, None)
        for number in range(1000):
            viewer.put('state', str(number))
            viewer.enqueue(f'answer {number}')
        return viewer

    viewer = asyncio.run(fill())
    assert viewer._newest == {'state': '999'}
    assert len(viewer._queue) == viewer_hub.MAX_UNSENT


def test_the_page_is_installed_with_the_package():
    assert {'index.html', 'login.html', 'style.css', 'main.js'} <= {
        path.name for path in Path(STATIC_DIR).iterdir()
    }
