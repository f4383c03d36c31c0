"""Connections to policies elsewhere, as they are used for hours."""

import asyncio

import pytest

from wam_policy.core.robot.embodiment import load_embodiment
from wam_policy.servers.server_profile import load_for_robot
from wam_policy.servers.transports import websocket_client, websocket_server
from wam_policy.servers.transports.policy_transport import TransportSettings


def test_a_policy_connection_has_no_keep_alive_pings(monkeypatch):
    """A server does not answer pings while it computes: its own library would end it for that."""
    settings = []

    def refuse(*_, **given):
        settings.append(given)
        raise OSError('nobody listens')

    monkeypatch.setattr(websocket_client, 'connect', refuse)
    monkeypatch.setattr(websocket_server, 'serve', refuse)
    with pytest.raises(websocket_client.ServerUnreachable):
        websocket_client.WebSocketClient('ws://127.0.0.1:1', TransportSettings())
    profile = load_for_robot('', load_embodiment('yam'))
    server = websocket_server.PolicyServer(None, profile, {}, metrics=None, backend=None)
    with pytest.raises(OSError, match='nobody listens'):
        asyncio.run(server.run('127.0.0.1', 0, print))
    assert [given['ping_interval'] for given in settings] == [None, None]
