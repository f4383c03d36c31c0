"""Read and write the safetensors files of a checkpoint; headers alone describe the tensors."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch

from wam_policy.model.checkpoint.load_errors import name_file

INDEX_FILE = 'model.safetensors.index.json'
SINGLE_FILE = 'model.safetensors'
PEFT_FILE = 'adapter_model.safetensors'  # of a folder that peft wrote
DTYPES = {
    'F64': torch.float64,
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'I64': torch.int64,
    'I32': torch.int32,
    'U8': torch.uint8,
    'BOOL': torch.bool,
    'F8_E4M3': torch.float8_e4m3fn,
    'F8_E5M2': torch.float8_e5m2,
}
_PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.pkl', '.ckpt')
_MAX_HEADER_BYTES = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Describe one tensor of a file without reading its values."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int  # of its first byte in the file

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read a safetensors header; ValueError if the file is truncated or another format."""
    size = path.stat().st_size
    with path.open('rb') as file:
        start = file.read(8)
        length = struct.unpack('<Q', start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f'{path}: not a safetensors file, or truncated')
        try:
            content = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f'{path}: unreadable safetensors header: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: unreadable safetensors header: not an object')
    content.pop('__metadata__', None)
    found, spans = {}, []
    for name, entry in content.items():
        try:
            kind, shape, (first, last) = entry['dtype'], entry['shape'], entry['data_offsets']
            sides = tuple(int(side) for side in shape)
            info = TensorInfo(name, path, sides, DTYPES[kind], 8 + length + int(first))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path}: {name} is described by {entry!r:.120}; want a dtype of '
                f'{", ".join(DTYPES)}, a shape and two data_offsets'
            ) from error
        found[name] = info
        if last - first != info.nbytes:
            raise ValueError(
                f'{path}: {name} occupies {last - first} bytes, its shape needs {info.nbytes}'
            )
        spans.append((first, last, name))
    _check_layout(path, sorted(spans), size - 8 - length)
    return found


def _check_layout(path: Path, spans: list[tuple[int, int, str]], data_size: int) -> None:
    """Raise ValueError unless the tensors fill the data without a hole, an overlap or a rest.

    `spans` are (first byte, end, tensor), in order. The library refuses such files, too, but only
    when a worker loads them.
    """
    end = 0
    for first, last, name in spans:
        if first != end:
            raise ValueError(
                f'{path}: {name} begins at byte {first} of the data, the tensor before it ends at '
                f'{end}; the file is damaged: write or download it again'
            )
        end = last
    if data_size < end:
        raise ValueError(
            f'{path}: truncated: {data_size} bytes of data of {end}; download it again'
        )
    if data_size > end:
        raise ValueError(
            f'{path}: {data_size - end} bytes follow the last tensor; the file is damaged: write '
            'or download it again'
        )


def has_own_weights(folder: Path) -> bool:
    """Return whether a folder holds weights under the names of the released layout."""
    return (folder / INDEX_FILE).is_file() or (folder / SINGLE_FILE).is_file()


def find_weight_files(folder: Path) -> list[Path]:
    """List the weight files of a checkpoint folder, refusing pickles and incomplete sets."""
    if (folder / INDEX_FILE).is_file():
        with name_file(folder / INDEX_FILE, 'want a safetensors index: copy it again'):
            weight_map = json.loads((folder / INDEX_FILE).read_text())['weight_map']
            listed = [folder / name for name in sorted(set(weight_map.values()))]
        absent = [path.name for path in listed if not path.is_file()]
        if absent:
            raise FileNotFoundError(
                f'{folder}: {INDEX_FILE} names missing files: '
                f'{", ".join(absent)}; copy the whole checkpoint'
            )
        return listed
    for name in (SINGLE_FILE, PEFT_FILE):
        if (folder / name).is_file():
            return [folder / name]
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such checkpoint folder')
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise ValueError(
            f'{folder}: {", ".join(pickles)}: pickled weights run code when they are read and are '
            'refused. If you trust their source, convert them: safetensors.torch.save_file('
            "torch.load(file, weights_only=True), 'model.safetensors')"
        )
    others = ', '.join(sorted(path.name for path in folder.glob('*.safetensors')))
    hint = f'; of {others} it is not known what they hold: rename or convert them'
    raise FileNotFoundError(
        f'{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} nor {PEFT_FILE}'
        + (hint if others else '')
    )


def read_tensor_infos(folder: Path) -> dict[str, TensorInfo]:
    """Describe every tensor of a checkpoint; the index must agree with the files."""
    found: dict[str, TensorInfo] = {}
    for path in find_weight_files(folder):
        for name, stored in read_header(path).items():
            if name in found:
                raise ValueError(f'{name} is in {found[name].file.name} and in {path.name}')
            found[name] = stored
    if (folder / INDEX_FILE).is_file():
        weight_map: Mapping[str, str] = json.loads((folder / INDEX_FILE).read_text())['weight_map']
        wrong = sorted(
            name
            for name in weight_map.keys() | found.keys()
            if name not in found or weight_map.get(name) != found[name].file.name
        )
        if wrong:
            raise ValueError(
                f'{folder / INDEX_FILE} and the files disagree about {len(wrong)} '
                f'tensors: {", ".join(wrong[:5])}'
            )
    return found


def iter_tensors(
    wanted: Iterable[TensorInfo], device: torch.device
) -> Iterator[tuple[TensorInfo, torch.Tensor]]:
    """Yield tensors on `device`, in their stored dtype, file after file.

    Read, not mapped: pages of a mapping count as memory of the process until its file is closed,
    which doubles what a single-file checkpoint needs. The host holds one tensor at a time, in
    memory of its own that the caller may keep.
    """
    by_file: dict[Path, list[TensorInfo]] = {}
    for stored in wanted:
        by_file.setdefault(stored.file, []).append(stored)
    for path, group in by_file.items():
        with name_file(path):
            file = path.open('rb', buffering=0)
        with file:
            for stored in sorted(group, key=lambda stored: stored.offset):
                with name_file(path):
                    tensor = _read_tensor(file, stored).to(device)
                yield stored, tensor


def _read_tensor(file: FileIO, stored: TensorInfo) -> torch.Tensor:
    tensor = torch.empty(stored.shape, dtype=stored.dtype)
    left = memoryview(tensor.view(-1).view(torch.uint8).numpy()) if tensor.numel() else b''
    file.seek(stored.offset)
    while left:
        count = file.readinto(left)
        if not count:
            raise ValueError(
                f'{stored.file}: ends inside {stored.name}; write or download it again'
            )
        left = left[count:]
    return tensor


# ---- writing


def split_into_shards(sizes: Mapping[str, int], max_shard_size: int) -> dict[str, list[str]]:
    """Group tensors, given their bytes, into files of at most `max_shard_size` bytes each."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    return {
        f'model-{k:05d}-of-{len(groups):05d}.safetensors': names
        for k, names in enumerate(groups, start=1)
    }


def write_index(folder: Path, files: Mapping[str, str], nbytes: int) -> None:
    """Write the index of a checkpoint with several files; delete a stale one."""
    path = folder / INDEX_FILE
    if set(files.values()) == {SINGLE_FILE}:
        path.unlink(missing_ok=True)
        return
    path.write_text(
        json.dumps(
            {'metadata': {'total_size': nbytes}, 'weight_map': dict(sorted(files.items()))},
            indent=1,
        )
    )
