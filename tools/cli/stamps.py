"""Stamp files of finished steps, with a hash of their inputs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_inputs(texts: Iterable[str] = (), files: Iterable[Path] = ()) -> str:
    """Return the hash of a step's inputs, texts and file contents."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b'\0')
    for file in sorted(files):
        digest.update(file.name.encode() + b'\0' + file.read_bytes() + b'\0')
    return digest.hexdigest()


def is_fresh(stamp: Path, key: str) -> bool:
    """Return whether the step of `stamp` was finished with the inputs hashed in `key`."""
    return stamp.is_file() and stamp.read_text().strip() == key


def write(stamp: Path, key: str) -> None:
    """Write a stamp atomically."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    part = stamp.with_suffix('.part')
    part.write_text(key + '\n')
    part.replace(stamp)
