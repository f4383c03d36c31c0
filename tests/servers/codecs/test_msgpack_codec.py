"""Messages survive the way to the openpi package and back; nothing else gets in."""

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openpi_client import msgpack_numpy

from wam_policy.servers.codecs import msgpack_codec

ARRAYS = hnp.arrays(
    dtype=st.sampled_from(['u1', 'i4', 'i8', 'f4', 'f8', '?']),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | ARRAYS
    | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def is_equal(left, right):
    if isinstance(left, np.ndarray):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and np.array_equal(left, right, equal_nan=left.dtype.kind == 'f')
        )
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_equal(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_equal, left, right))
    return left == right


@settings(deadline=None)
@given(VALUES)
def test_messages_are_compatible_with_the_openpi_package(value):
    assert is_equal(value, msgpack_codec.unpack(msgpack_codec.pack(value)))
    assert is_equal(value, msgpack_numpy.unpackb(msgpack_codec.pack(value)))
    assert is_equal(value, msgpack_codec.unpack(msgpack_numpy.packb(value)))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_rejected(raw):
    with contextlib.suppress(msgpack_codec.MalformedMessage):
        msgpack_codec.unpack(raw)


def test_a_truncated_or_changed_message_is_read_or_refused():
    raw = msgpack_codec.pack(
        {'view': np.zeros((4, 6, 3), np.uint8), 'prompt': 'lift', 'x': [1, 2.5]}
    )
    for cut in range(len(raw)):
        with pytest.raises(msgpack_codec.MalformedMessage):
            msgpack_codec.unpack(raw[:cut])
    for spot in range(len(raw)):
        changed = bytearray(raw)
        changed[spot] ^= 0xFF
        with contextlib.suppress(msgpack_codec.MalformedMessage):
            msgpack_codec.unpack(bytes(changed))


def make_tagged_array(**changed):
    described = {'dtype': '<f4', 'shape': [2, 2], 'data': b'\0' * 16} | changed
    return msgpack.packb(
        {b'__ndarray__': True, **{key.encode(): value for key, value in described.items()}}
    )


@pytest.mark.parametrize(
    'raw',
    [
        make_tagged_array(dtype='|O'),
        make_tagged_array(dtype='O'),
        make_tagged_array(dtype='|V4'),
        make_tagged_array(dtype='<c8'),
        make_tagged_array(dtype='<U4'),
        make_tagged_array(dtype=7),
        make_tagged_array(dtype=['<f4']),
        make_tagged_array(shape=[2, 3]),
        make_tagged_array(shape=[2**40, 2**40]),
        make_tagged_array(shape=[-2, -2]),
        make_tagged_array(shape=[2.0, 2]),
        make_tagged_array(shape=[True, 4]),
        make_tagged_array(shape=4),
        make_tagged_array(shape=[1] * 7),
        make_tagged_array(data='0' * 16),
        make_tagged_array(data=None),
        make_tagged_array(data=b''),
        msgpack.packb({b'__npgeneric__': True, b'dtype': '|O', b'data': 1}),
        msgpack.packb({b'__npgeneric__': True, b'dtype': '<f4', b'data': [1]}),
        msgpack.packb(msgpack.ExtType(4, b'x')),
        msgpack.packb(msgpack.Timestamp(1)),
        b'\xdd\xff\xff\xff\xff',
        b'\xdf\xff\xff\xff\xff',
        b'\xc6\xff\xff\xff\xff',
        b'\x91' * 100_000,
        b'\xc1',
        b'',
        b'\xa4\xff\xff\xff\xff',
        msgpack.packb([0] * (msgpack_codec.MAX_LIST_ITEMS + 1)),
        msgpack.packb('x' * (msgpack_codec.MAX_TEXT_BYTES + 1)),
        msgpack.packb({1: 2}),
        msgpack.packb(1) + b'\x01',
    ],
)
def test_an_invalid_message_is_rejected(raw):
    with pytest.raises(msgpack_codec.MalformedMessage):
        msgpack_codec.unpack(raw)


@pytest.mark.parametrize(
    'value',
    [
        object(),
        np.array([object()]),
        np.array(['a']),
        1 + 2j,
        np.zeros(2, 'c8'),
        {'a': {1, 2}},
        2**70,
    ],
)
def test_unsupported_values_are_not_encoded(value):
    with pytest.raises(msgpack_codec.MalformedMessage):
        msgpack_codec.pack(value)


def test_a_request_is_a_map_with_string_keys():
    assert msgpack_codec.unpack_request(msgpack_codec.pack({'a': 1})) == {'a': 1}
    for raw in ('{"a": 1}', msgpack_codec.pack([1]), msgpack.packb({b'a': 1})):
        with pytest.raises(msgpack_codec.MalformedMessage):
            msgpack_codec.unpack_request(raw)


def test_arrays_are_views_of_the_received_bytes():
    array = msgpack_codec.unpack(msgpack_codec.pack(np.arange(6)))
    assert not array.flags.owndata and not array.flags.writeable
