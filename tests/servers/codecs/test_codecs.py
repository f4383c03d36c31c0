"""Messages survive the way to the packages that define them and back; nothing else gets in."""

import base64
import contextlib
import io
import json

import cv2
import json_numpy
import msgpack
import msgpack_numpy as msgpack_numpy_package
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openpi_client import msgpack_numpy as openpi_package

from wam_policy.servers.codecs import codec_table, groot_codec, text_key_codec, wire_arrays
from wam_policy.servers.codecs.codec_table import CODECS
from wam_policy.servers.codecs.wire_arrays import MalformedMessage

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from(['u1', 'i4', 'i8', 'f4', 'f8', '>f4', '?']), shape=SHAPES
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=['Cs']), max_size=20)
    | ARRAYS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
# what writes and what reads each encoding, in a package that is not ours
PEERS = {
    'openpi': (openpi_package.packb, openpi_package.unpackb),
    'msgpack_numpy': (msgpack_numpy_package.packb, msgpack_numpy_package.unpackb),
    'json_numpy': (lambda value: json_numpy.dumps(value).encode(), json_numpy.loads),
}


def is_equal(left, right):
    if isinstance(left, np.ndarray) and not left.shape:
        left, right = left.item(), np.asarray(right).item()  # some encodings have no 0-d arrays
        return left == right or (left != left and right != right)
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


@pytest.mark.parametrize('name', CODECS)
@settings(deadline=None, max_examples=60)
@given(value=VALUES)
def test_messages_survive_and_the_packages_of_others_read_and_write_them(name, value):
    codec = CODECS[name]
    assert is_equal(value, codec.unpack(codec.pack(value)))
    if name in PEERS and not is_unsupported_by_peer(name, value):
        write, read = PEERS[name]
        assert is_equal(value, read(codec.pack(value)))
        assert is_equal(value, codec.unpack(write(value)))


def is_unsupported_by_peer(name, value):
    """Return whether a value holds an array that json_numpy cannot read or write: empty ones."""
    if isinstance(value, np.ndarray):
        return name == 'json_numpy' and (value.size == 0 or not value.shape)
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and any(is_unsupported_by_peer(name, i) for i in inner)


@pytest.mark.parametrize('name', CODECS)
@settings(deadline=None, max_examples=60)
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_rejected(name, raw):
    with contextlib.suppress(MalformedMessage):
        CODECS[name].unpack(raw)


@pytest.mark.parametrize('name', CODECS)
def test_a_truncated_or_changed_message_is_read_or_refused(name):
    codec = CODECS[name]
    raw = codec.pack({'view': np.zeros((2, 4, 3), np.uint8), 'prompt': 'lift', 'x': [1, 2.5]})
    for cut in range(len(raw)):
        with pytest.raises(MalformedMessage):
            codec.unpack(raw[:cut])
    for spot in range(len(raw)):
        for mask in (0xFF, 0x01, 0x20):
            changed = bytearray(raw)
            changed[spot] ^= mask
            with contextlib.suppress(MalformedMessage):
                codec.unpack(bytes(changed))


def tag(name, dtype='<f4', shape=(2, 2), data=b'\0' * 16):
    """Return the message of an array that states any dtype, shape and data."""
    if name == 'json_numpy':
        text = data if data is None or isinstance(data, str) else base64.b64encode(data).decode()
        return json.dumps({'__numpy__': text, 'dtype': dtype, 'shape': shape}).encode()
    if name == 'groot':
        header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
        data = data.encode() if isinstance(data, str) else data
        npy = b'\x93NUMPY\1\0' + len(header).to_bytes(2, 'little') + header
        return msgpack.packb(
            {'__ndarray_class__': True, 'as_npy': None if data is None else npy + data}
        )
    if name == 'msgpack_numpy':
        return msgpack.packb(
            {b'nd': True, b'type': dtype, b'kind': b'', b'shape': shape, b'data': data}
        )
    described = {'__ndarray__': True, 'dtype': dtype, 'shape': shape, 'data': data}
    if name == 'openpi':
        return msgpack.packb({key.encode(): value for key, value in described.items()})
    return msgpack.packb(described)


HOSTILE_ARRAYS = (
    *({'dtype': d} for d in ('|O', 'O', '|V4', '<c8', '<U4', '<M8[s]', 7, ['<f4'])),
    {'dtype': [['x', '<f4'], ['y', '<f4']], 'shape': (2,)},  # structured
    *(
        {'shape': s}
        for s in ((2, 3), (2**40, 2**40), (2**70,), (-2, -2), (2.0, 2), (True, 4), 4, [1] * 7)
    ),
    *({'data': d} for d in ('0' * 15, None, b'', b'\0' * 17)),
)


@pytest.mark.parametrize('name', CODECS)
def test_an_array_that_is_not_what_it_states_is_rejected(name):
    assert CODECS[name].unpack(tag(name)).shape == (2, 2)  # the form itself is right
    for changed in HOSTILE_ARRAYS:
        if name != 'json_numpy' and changed.get('shape') == (2**70,):
            continue  # no integer of msgpack
        if name == 'groot' and isinstance(changed.get('shape'), list):
            changed = {'shape': (1,) * 7}
        with pytest.raises(MalformedMessage):
            CODECS[name].unpack(tag(name, **changed))


@pytest.mark.parametrize('name', sorted(set(CODECS) - {'json_numpy'}))
@pytest.mark.parametrize(
    'raw',
    [
        msgpack.packb(msgpack.ExtType(4, b'x')),
        msgpack.packb(msgpack.Timestamp(1)),
        b'\xdd\xff\xff\xff\xff',
        b'\xdf\xff\xff\xff\xff',
        b'\xc6\xff\xff\xff\xff',
        b'\x91' * 100_000,
        b'\xc1',
        b'',
        'text',
        b'\xa4\xff\xff\xff\xff',
        msgpack.packb([0] * (wire_arrays.MAX_LIST_ITEMS + 1)),
        msgpack.packb('x' * (wire_arrays.MAX_TEXT_BYTES + 1)),
        msgpack.packb({1: 2}),
        msgpack.packb(1) + b'\x01',
    ],
)
def test_invalid_msgpack_is_rejected(name, raw):
    with pytest.raises(MalformedMessage):
        CODECS[name].unpack(raw)


@pytest.mark.parametrize(
    ('name', 'raw'),
    [
        ('openpi', msgpack.packb({b'__npgeneric__': True, b'dtype': '|O', b'data': 1})),
        ('openpi', msgpack.packb({b'__npgeneric__': True, b'dtype': ['<f4'], b'data': 1})),
        ('openpi', msgpack.packb({b'__npgeneric__': True, b'dtype': '<f4', b'data': [1]})),
        ('msgpack_numpy', msgpack_numpy_package.packb(np.array([object()]))),
        ('msgpack_numpy', msgpack_numpy_package.packb(np.zeros(2, [('x', 'f4'), ('y', 'f4')]))),
        ('msgpack_numpy', msgpack_numpy_package.packb(1 + 2j)),
        ('msgpack_numpy', msgpack.packb({b'nd': False, b'type': '|O', b'data': b'abc'})),
        ('groot', msgpack.packb({'__ModalityConfig_class__': True, 'as_json': '{'})),
        ('groot', msgpack.packb({'__ModalityConfig_class__': True, 'as_json': '[' * 9000})),
        ('groot', msgpack.packb({'__ModalityConfig_class__': True, 'as_json': [1]})),
        ('groot', msgpack.packb({'__ndarray_class__': True, 'as_npy': b'\x93NUMPY\1'})),
        (
            'groot',
            msgpack.packb({'__ndarray_class__': True, 'as_npy': b'\x93NUMPY\3' + b'(' * 99}),
        ),
        ('json_numpy', json_numpy.dumps(np.zeros(2, [('x', 'f4'), ('y', 'f4')]))),
        ('json_numpy', b'[' * 100_000),
        ('json_numpy', b'[' + b'0,' * 4_000_000 + b'0]'),
        ('json_numpy', b'{"x": NaN}'),
        ('json_numpy', b'{"x": -Infinity}'),
        ('json_numpy', b'{"__numpy__": "AAAA AAAA", "dtype": "|u1", "shape": [6]}'),
        ('json_numpy', b'1' * 5000),
        ('json_numpy', b'"\xff"'),
        ('json_numpy', b'<html>502 Bad Gateway</html>'),
        ('text_keys', msgpack.packb({'__image__': True, 'format': 'gif', 'data': b'GIF89a'})),
        ('text_keys', msgpack.packb({'__image__': True, 'format': 'png', 'data': b'\x89PNG'})),
        ('text_keys', msgpack.packb({'__image__': True, 'format': 'jpeg', 'data': b'\xff\xd8'})),
    ],
)
def test_an_invalid_message_of_one_encoding_is_rejected(name, raw):
    with pytest.raises(MalformedMessage):
        CODECS[name].unpack(raw)


@pytest.mark.parametrize('name', CODECS)
@pytest.mark.parametrize(
    'value',
    [
        object(),
        np.array([object()]),
        np.array(['a']),
        1 + 2j,
        np.zeros(2, 'c8'),
        np.zeros(2, [('x', 'f4')]),
        {'a': {1, 2}},
    ],
)
def test_unsupported_values_are_not_encoded(name, value):
    with pytest.raises(MalformedMessage):
        CODECS[name].pack(value)


@pytest.mark.parametrize('name', CODECS)
def test_numpy_scalars_are_read_as_numbers_and_arrays_as_views(name):
    codec = CODECS[name]
    assert codec.unpack(codec.pack({'x': np.float32(0.5), 'n': np.int64(3)})) == {'x': 0.5, 'n': 3}
    array = codec.unpack(codec.pack(np.arange(6)))
    assert not array.flags.owndata and not array.flags.writeable
    turned = np.arange(6, dtype='f4').reshape(2, 3).T
    assert is_equal(turned, codec.unpack(codec.pack(turned)))


def test_a_request_is_a_map_with_string_keys():
    assert codec_table.check_request({'a': 1}) == {'a': 1}
    for value in ([1], {b'a': 1}, 'a', None):
        with pytest.raises(MalformedMessage):
            codec_table.check_request(value)


def test_npy_files_of_numpy_are_read_and_ours_by_numpy():
    for order, dtype in (('F', '<f4'), ('C', '>i2')):
        array, file = np.arange(6, dtype=dtype).reshape((2, 3), order=order), io.BytesIO()
        np.save(file, array)
        raw = msgpack.packb({'__ndarray_class__': True, 'as_npy': file.getvalue()})
        assert is_equal(array, groot_codec.unpack(raw))
        written = msgpack.unpackb(groot_codec.pack(array))['as_npy']
        assert is_equal(array, np.load(io.BytesIO(written), allow_pickle=False))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{'a': 1}]), allow_pickle=True)
    with pytest.raises(MalformedMessage):
        groot_codec.unpack(
            msgpack.packb({'__ndarray_class__': True, 'as_npy': pickled.getvalue()})
        )


@pytest.mark.parametrize('as_json', [{'modality_keys': ['top']}, '{"modality_keys": ["top"]}'])
def test_modality_configurations_of_both_releases_are_read(as_json):
    raw = msgpack.packb({'video': {'__ModalityConfig_class__': True, 'as_json': as_json}})
    config = groot_codec.unpack(raw)['video']
    assert config == groot_codec.ModalityConfig({'modality_keys': ['top']})
    assert groot_codec.unpack(groot_codec.pack({'video': config}))['video'] == config


@pytest.mark.parametrize('quality', [None, 95])
def test_encoded_images_are_rgb_and_no_larger_than_their_header(quality):
    image = np.full((40, 60, 3), (250, 120, 5), np.uint8)
    found = text_key_codec.unpack(text_key_codec.pack(text_key_codec.encode_image(image, quality)))
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).max() <= (0 if quality is None else 3)

    stated = text_key_codec.encode_image(image, quality) | {'shape': [60, 40, 3]}
    with pytest.raises(MalformedMessage, match='states'):
        text_key_codec.unpack(text_key_codec.pack(stated))
    with pytest.raises(MalformedMessage):
        text_key_codec.decode_image(text_key_codec.encode_image(image, quality)['data'][:60])


def test_an_image_that_claims_gigabytes_is_rejected_before_it_is_decoded():
    _, file = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))
    huge = bytearray(file.tobytes())
    huge[16:20] = (60_000).to_bytes(4)
    with pytest.raises(MalformedMessage, match='60000x8'):
        text_key_codec.decode_image(bytes(huge))
