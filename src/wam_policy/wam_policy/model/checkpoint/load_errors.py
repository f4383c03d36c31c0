"""Turn what libraries raise while a model loads into one ValueError with the file and the fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

DAMAGED = 'the file is damaged or of another format: write or copy it again'
# torch reports a lack of memory on the CPU as a plain RuntimeError, recognizable by its text
_NO_MEMORY = ("can't allocate memory", 'not enough memory', 'out of memory', 'bad_alloc')


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or the one that caused it, reports a lack of memory."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or isinstance(error, RuntimeError | OSError)
        and any(words in text for words in _NO_MEMORY)
        or error.__cause__ is not None
        and is_out_of_memory(error.__cause__)
    )


def describe_error(error: BaseException) -> str:
    """Return the first line of an error, with its type unless that is a plain ValueError."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    return lines[0][:300] if type(error) is ValueError else f'{name}: {lines[0]:.300}'


@contextmanager
def name_file(path: Path, fix: str = DAMAGED) -> Iterator[None]:
    """Raise any error of the block as a ValueError that names `path` and the fix.

    Errors that name the path already and a lack of memory pass unchanged.
    """
    try:
        yield
    except Exception as error:
        is_named = isinstance(error, ValueError | FileNotFoundError) and str(path) in str(error)
        if is_named or is_out_of_memory(error):
            raise
        if isinstance(error, OSError):  # nothing is wrong with the content
            fix = 'check that the file exists, can be read and is on a healthy disk'
        raise ValueError(f'{path}: {describe_error(error)}; {fix}') from error
