"""The wire carries what it is given and names what is wrong with anything else."""

import json
import socket
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wam_policy.workers import protocol
from wam_policy.workers.protocol import PeerClosed, ProtocolError, ProtocolTimeout, WorkerMessage


def send_and_receive(message: WorkerMessage) -> WorkerMessage:
    near, far = protocol.make_socket_pair()
    with near, far:
        sender = threading.Thread(target=protocol.send, args=(near, message, 5.0))
        sender.start()
        got = protocol.receive(far, 5.0)
        sender.join()
    return got


def receive_raw(raw: bytes) -> WorkerMessage:
    """Receive what a peer sent that writes `raw` and closes."""
    near, far = protocol.make_socket_pair()
    with near, far:
        near.sendall(raw)
        near.close()
        return protocol.receive(far, 5.0)


def add_length_prefix(head: object) -> bytes:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack('>I', len(raw)) + raw


arrays = st.dictionaries(
    st.text(max_size=12),
    st.sampled_from(protocol.DTYPES).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=protocol.MAX_DIMENSIONS, min_side=0, max_side=3),
        )
    ),
    max_size=4,
)
plain = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in ('kind', 'arrays')),
    st.one_of(
        st.integers(-(2**53), 2**53),
        st.text(max_size=20),
        st.booleans(),
        st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.lists(st.integers(0, 9)),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=10), plain, arrays)
def test_what_arrives_is_what_was_sent(kind, fields, given_arrays):
    got = send_and_receive(WorkerMessage(kind, fields, given_arrays))
    assert (got.kind, got.fields) == (kind, fields)
    assert list(got.arrays) == list(given_arrays)
    for name, array in given_arrays.items():
        assert got.arrays[name].dtype == array.dtype
        assert got.arrays[name].shape == array.shape
        np.testing.assert_array_equal(got.arrays[name], array)


def test_strided_and_read_only_arrays_travel_and_arrive_writeable_and_aligned():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image.setflags(write=False)
    got = send_and_receive(
        WorkerMessage(
            'query',
            {},
            {'odd': image[:1, :1], 'joints': np.arange(10.0)[::-3], 'flipped': image[:, ::-1]},
        )
    )
    np.testing.assert_array_equal(got.arrays['joints'], [9.0, 6.0, 3.0, 0.0])
    np.testing.assert_array_equal(got.arrays['flipped'], image[:, ::-1])
    assert all(array.flags.writeable and array.flags.aligned for array in got.arrays.values())


def test_a_large_message_crosses_both_ways_through_a_small_buffer():
    near, far = socket.socketpair()
    frames = np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), dtype=np.uint8)

    def echo() -> None:
        protocol.send(far, protocol.receive(far, 5.0), 5.0)

    with near, far:
        thread = threading.Thread(target=echo)
        thread.start()
        protocol.send(near, WorkerMessage('commit', {}, {'frames/top': frames}), 5.0)
        got = protocol.receive(near, 5.0)
        thread.join()
    np.testing.assert_array_equal(got.arrays['frames/top'], frames)


@pytest.mark.parametrize(
    'raw, said',
    [
        (b'\x00\x00', 'truncated: closed after 2 of 4 bytes of the head length'),
        (struct.pack('>I', 0), 'head of 0 bytes'),
        (b'GET / HTTP/1.1\r\n\r\n', 'head of 1195725856 bytes'),
        (struct.pack('>I', 40) + b'{"kind"', 'truncated: closed after 7 of 40 bytes of the head'),
        (add_length_prefix(b'\xff\xfe{}'), 'head is not JSON'),
        (add_length_prefix(b'[' * 100_000), 'head is not JSON'),
        (add_length_prefix(b'{"kind": "x", "arrays": [], "y": NaN}'), 'NaN'),
        (add_length_prefix(['kind']), 'want an object'),
        (add_length_prefix({'arrays': []}), 'names no kind'),
        (add_length_prefix({'kind': 7, 'arrays': []}), 'names no kind: 7'),
        (add_length_prefix({'kind': 'x'}), '"arrays" is None'),
        (add_length_prefix({'kind': 'x', 'arrays': [3]}), 'array description 3'),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': 'object', 'shape': [1]}]}
            ),
            "array 'a': dtype 'object' is not allowed",
        ),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': ['f8'], 'shape': [1]}]}
            ),
            'is not allowed',
        ),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': 'uint8', 'shape': [-1]}]}
            ),
            'shape',
        ),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': 'uint8', 'shape': [True]}]}
            ),
            'shape',
        ),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': 'uint8', 'shape': [1] * 7}]}
            ),
            'shape',
        ),
        (
            add_length_prefix(
                {
                    'kind': 'x',
                    'arrays': [{'name': 'a', 'dtype': 'float64', 'shape': [2**30, 2**30]}],
                }
            ),
            'to 9223372036854775808 bytes',
        ),
        (
            add_length_prefix(
                {'kind': 'x', 'arrays': [{'name': 'a', 'dtype': 'uint8', 'shape': [1]}] * 2}
            ),
            'not a new string',
        ),
        (
            add_length_prefix(
                {
                    'kind': 'x',
                    'arrays': [
                        {'name': str(i), 'dtype': 'uint8', 'shape': [0]} for i in range(65)
                    ],
                }
            ),
            '65 arrays; allowed 64',
        ),
        (
            add_length_prefix(
                {'kind': 'chunk', 'arrays': [{'name': 'a', 'dtype': 'float64', 'shape': [2]}]}
            )
            + b'12345',
            "truncated: closed after 5 of 16 bytes of the array 'a' of 'chunk'",
        ),
    ],
)
def test_a_wrong_frame_is_named(raw, said):
    with pytest.raises(ProtocolError) as caught:
        receive_raw(raw)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400  # garbage is not echoed at length
    assert not isinstance(caught.value, PeerClosed)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=64))
def test_garbage_is_a_wire_error_and_nothing_else(raw):
    with pytest.raises(ProtocolError):
        receive_raw(struct.pack('>I', len(raw)) + raw)
    with pytest.raises(ProtocolError):
        receive_raw(raw)


def test_an_end_between_frames_is_orderly():
    with pytest.raises(PeerClosed):
        receive_raw(b'')


def test_sending_to_a_closed_end_says_so():
    near, far = protocol.make_socket_pair()
    far.close()
    with near, pytest.raises(PeerClosed):
        protocol.send(near, WorkerMessage('stop'), 1.0)


def test_a_silent_or_half_silent_peer_times_out():
    near, far = protocol.make_socket_pair()
    with near, far:
        with pytest.raises(ProtocolTimeout):
            protocol.receive(near, 0.05)
        far.sendall(b'\x00\x00')
        with pytest.raises(ProtocolTimeout, match='after 2 of 4 bytes of the head length'):
            protocol.receive(near, 0.05)


def test_a_peer_that_takes_nothing_times_out():
    near, far = protocol.make_socket_pair()
    with near, far, pytest.raises(ProtocolTimeout):
        protocol.send(near, WorkerMessage('x', {}, {'a': np.zeros(40_000_000, np.uint8)}), 0.2)


@pytest.mark.parametrize(
    'message, said',
    [
        (WorkerMessage('x', {'kind': 'y'}), 'kind is reserved'),
        (WorkerMessage('x', {'y': float('nan')}), 'not plain JSON'),
        (WorkerMessage('x', {'y': object()}), 'not plain JSON'),
        (WorkerMessage('x', {'y': 'z' * protocol.MAX_HEAD_BYTES}), 'head of'),
        (WorkerMessage('x', {}, {'a': np.array(['text'])}), 'is not allowed'),
        (WorkerMessage('x', {}, {'a': np.array([None])}), 'dtype object is not allowed'),
        (
            WorkerMessage(
                'x', {}, {'a': np.broadcast_to(np.zeros((), np.uint8), (1, 1, 1, 1, 1, 1, 1))}
            ),
            'shape',
        ),
    ],
)
def test_what_breaks_a_limit_is_not_sent(message, said):
    near, far = protocol.make_socket_pair()
    with near, far:
        with pytest.raises(ProtocolError, match=said):
            protocol.send(near, message, 1.0)
        near.close()
        with pytest.raises(PeerClosed):
            protocol.receive(far, 1.0)
