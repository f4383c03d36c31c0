"""Remember which steps are done, and with which inputs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def hash_inputs(texts: Iterable[str] = (), files: Iterable[Path] = ()) -> str:
    """Hash the inputs of a step; a changed pin, script or header gives another key."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b'\0')
    for file in sorted(files):
        digest.update(file.name.encode() + b'\0' + file.read_bytes() + b'\0')
    return digest.hexdigest()


def is_fresh(stamp: Path, key: str) -> bool:
    """Tell whether the step behind `stamp` was finished with the inputs of `key`."""
    return stamp.is_file() and stamp.read_text().strip() == key


def write(stamp: Path, key: str) -> None:
    """Mark a step as finished. Atomic: a stamp is whole or absent."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    part = stamp.with_suffix('.part')
    part.write_text(key + '\n')
    part.replace(stamp)
