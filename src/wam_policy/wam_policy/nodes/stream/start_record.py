"""What a start of stream_node writes down, so that the next one knows whether it is the same.

A node that holds the arms goes on with the robot's description, the code and the parameters that
it was started with. The record holds them, beside the numbers of the two processes.
"""

import hashlib
import json
import os
import select
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

import wam_policy

PATH_VARIABLE = 'WAM_STREAM_RECORD'  # in the node's environment: where its record is
PROCESSES = ('node', 'starter')
CODE_SUFFIXES = ('.py', '.yaml', '.xml')
MAX_SHOWN = 4  # differences in one sentence


def make_record(name: str, python: str, node_arguments: Sequence[str]) -> dict[str, Any]:
    """Return what a start of the node `name` is: interpreter, code and parameters."""
    return {'python': python, 'code': hash_code(), **_collect_parameters(name, node_arguments)}


def hash_code() -> str:
    """Return a hash of the package: its code, and the descriptions of its robots."""
    folder = Path(wam_policy.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.suffix in CODE_SUFFIXES and path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:16]


def find_differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return in what two starts differ, processes aside: name, old value, new value."""
    names = sorted((held.keys() | wanted.keys()) - set(PROCESSES))
    found = [
        f'{name} was {held.get(name, "not given")}, now {wanted.get(name, "not given")}'
        for name in names
        if held.get(name) != wanted.get(name)
    ]
    left = len(found) - MAX_SHOWN
    return found if left <= 0 else [*found[:MAX_SHOWN], f'and {left} more']


def write(file: TextIO, record: Mapping[str, Any]) -> None:
    """Replace the content of an open record."""
    file.seek(0)
    file.truncate()
    file.write(json.dumps(record) + '\n')
    file.flush()


def read(file: TextIO) -> dict[str, Any]:
    """Return the record in an open file; empty for one that cannot be read."""
    file.seek(0)
    try:
        found = json.loads(file.read())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def open_starter() -> int | None:
    """Return a handle of the program that last started this node, readable when it ends.

    None if it has ended already, or there is none.
    """
    try:
        with open(os.environ[PATH_VARIABLE]) as file:
            return os.pidfd_open(read(file)['starter'])
    except (KeyError, OSError):
        return None


def has_ended(starter: int) -> bool:
    """Tell whether the program of a handle has ended; the handle is closed then."""
    if not select.select([starter], [], [], 0.0)[0]:
        return False
    os.close(starter)
    return True


def _collect_parameters(name: str, node_arguments: Sequence[str]) -> dict[str, Any]:
    """Return the node's parameters and remapping rules, as plain text."""
    found: dict[str, Any] = {}
    for option, value in zip(node_arguments, node_arguments[1:], strict=False):
        if option == '--params-file':
            for key, text in _read_parameters(Path(value), name):
                found[key] = text
        elif option in ('-p', '--param', '-r', '--remap') and ':=' in value:
            key, text = value.split(':=', 1)
            found[key] = text
    return found


def _read_parameters(path: Path, name: str) -> list[tuple[str, str]]:
    """Return the parameters in a file that apply to the node `name`."""
    content = yaml.safe_load(path.read_text()) or {}
    base = name.rpartition('/')[2]
    return [
        (key, str(value))
        for section, body in content.items()
        if section.rpartition('/')[2] in ('**', base)
        for key, value in (body.get('ros__parameters') or {}).items()
    ]
