"""Failures that end a command with one line, and how raw output becomes such a line."""

import errno
import re


class CommandError(Exception):
    """What went wrong and the fix, in one line for the user."""


# what programs print -> what the user needs to know; the first match wins
KNOWN_ERRORS = (
    (
        r'no space left on device|os error 28|errno 28|disk quota exceeded',
        'the disk is full: free some space (setup needs 9 GB) and run ./wam setup again',
    ),
    (
        r'name resolution|could not resolve|dns error|network is unreachable|connection refused'
        r'|error sending request|failed to establish|connection error|client error \(connect\)'
        r'|newconnectionerror|connecttimeout|could not connect|timed out|max retries exceeded'
        r'|no route to host|tunnel connection failed|proxyerror|failed to fetch'
        r'|\(from versions: none\)',
        'no network, or the package index cannot be reached: '
        'check the connection or the proxy and run ./wam setup again',
    ),
    (
        r'do not match the hashes|hash mismatch',
        'a download is not the file that was pinned (sha256 differs): '
        'remove .wam/downloads and run ./wam setup again',
    ),
)


def summarize_output(title: str, output: str, log_path: str) -> str:
    """Turn the output of a failed program into one line: what failed, why, the fix."""
    for pattern, meaning in KNOWN_ERRORS:
        if re.search(pattern, output, re.IGNORECASE):
            return f'{title}: {meaning}'
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'\berror\b', line, re.IGNORECASE)]
    last = (errors or lines or ['it printed nothing'])[-1][:200]
    return f'{title} failed: {last} (all of it: {log_path})'


def describe_oserror(error: OSError) -> str:
    """Turn an error of the file system into one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return KNOWN_ERRORS[0][1]
    where = f' ({error.filename})' if error.filename else ''
    return f'{error.strerror or error}{where}'
