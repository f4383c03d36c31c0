"""Headers of safetensors files: what the library refuses at load is refused when it is checked."""

import json
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wam_policy.model.checkpoint import safetensors_shards


@pytest.fixture
def path(tmp_path):
    save_file({'a': torch.ones(4), 'b': torch.zeros(2, 3)}, tmp_path / 'model.safetensors')
    return tmp_path / 'model.safetensors'


def edit_header(path, change, data=None):
    raw = path.read_bytes()
    length = struct.unpack('<Q', raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    header = change(header) or header
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + (body if data is None else data(body)))


def shift(header, name, count):
    offsets = header[name]['data_offsets']
    header[name]['data_offsets'] = [offset + count for offset in offsets]


def test_a_sound_file_is_described(path):
    found = safetensors_shards.read_header(path)
    assert {name: info.shape for name, info in found.items()} == {'a': (4,), 'b': (2, 3)}


@pytest.mark.parametrize(
    ('change', 'data', 'words'),
    [
        (lambda h: None, lambda body: body + b'\0' * 8, '8 bytes follow the last tensor'),
        (lambda h: None, lambda body: body[:-4], 'truncated: 36 bytes of data of 40'),
        (
            lambda h: shift(h, 'b', 8),
            lambda body: body[:16] + b'\0' * 8 + body[16:],
            'b begins at byte 24 of the data, the tensor before it ends at 16',
        ),
        (lambda h: shift(h, 'b', -8), lambda body: body[:-8], 'b begins at byte 8'),
        (lambda h: h['a'].update(dtype='F31'), None, "a is described by .*'F31'.*want a dtype"),
        (lambda h: h['a'].pop('shape') and None, None, 'a is described by'),
        (lambda h: h['a'].update(data_offsets=[0]), None, 'a is described by'),
        (lambda h: h['a'].update(shape=[5]), None, 'a occupies 16 bytes, its shape needs 20'),
        (lambda h: [1, 2], None, 'not an object'),
    ],
)
def test_a_damaged_file_is_refused_as_the_library_does(path, change, data, words):
    edit_header(path, change, data)
    with pytest.raises(ValueError, match=words):
        safetensors_shards.read_header(path)
    with pytest.raises(SafetensorError), safe_open(path, 'pt') as file:
        file.get_tensor('a')
