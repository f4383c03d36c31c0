"""Replayed robots commit and query in turn; a query that waits counts from when it was due."""

import asyncio
import time

import numpy as np
import pytest

from benchmarks.stack import robots
from wam_policy.core.robot import embodiment
from wam_policy.servers.codecs import msgpack_codec

ANSWER_S = 0.1  # longer than the period of queries


class SlowConnection:
    """Keep what is sent; answer each message after a while."""

    def __init__(self) -> None:
        self.sent: list[dict] = []

    async def send(self, message: bytes) -> None:
        self.sent.append(msgpack_codec.unpack(message))

    async def recv(self) -> bytes:
        await asyncio.sleep(ANSWER_S)
        return b''


@pytest.fixture(scope='module')
def recording() -> robots.Recording:
    return robots.Recording('yam')


def test_a_robot_commits_blocks_and_queries_in_between(recording: robots.Recording) -> None:
    connection, seconds = SlowConnection(), 1.0
    start_s = time.perf_counter()
    latencies_ms = asyncio.run(robots.run_robot(connection, recording, start_s, seconds))
    kinds = [message['endpoint'] for message in connection.sent]
    assert kinds[:2] == ['commit', 'infer'] and kinds.count('infer') == len(latencies_ms)
    blocks = [message['block'] for message in connection.sent if 'block' in message]
    assert blocks == list(range(1, len(blocks) + 1)) and len(blocks) >= 2
    assert min(latencies_ms) >= 1e3 * ANSWER_S
    assert latencies_ms[0] >= 2e3 * ANSWER_S  # the commit before it was answered first


def test_a_recording_has_the_frames_of_every_camera_by_block(recording: robots.Recording) -> None:
    cameras = embodiment.load_embodiment('yam').cameras
    assert len(recording.blocks) == robots.RECORDED_BLOCKS
    for block in recording.blocks:
        images = [value for value in block.values() if isinstance(value, np.ndarray)]
        assert [len(frames) for frames in images] == [robots.FRAMES_PER_BLOCK] * len(cameras)
    assert len(recording.queries) == robots.RECORDED_BLOCKS + 1
