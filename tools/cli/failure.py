"""Errors that end a command with one line, and the conversion of program output to such a line."""

import errno
import re


class CommandError(Exception):
    """Report an error and its fix in one line for the user."""


# pattern of program output -> message for the user; the first match counts
KNOWN_ERRORS = (
    (
        r'no space left on device|os error 28|errno 28|disk quota exceeded',
        'the disk is full: free disk space (setup needs 9 GB) and run ./wam setup again',
    ),
    (
        r'name resolution|could not resolve|dns error|network is unreachable|connection refused'
        r'|error sending request|failed to establish|connection error|client error \(connect\)'
        r'|newconnectionerror|connecttimeout|could not connect|timed out|max retries exceeded'
        r'|no route to host|tunnel connection failed|proxyerror|failed to fetch'
        r'|\(from versions: none\)',
        'no network, or the package index is unreachable: '
        'check the connection or the proxy and run ./wam setup again',
    ),
    (
        r'do not match the hashes|hash mismatch',
        'a download differs from the pinned file (sha256): '
        'remove .wam/downloads and run ./wam setup again',
    ),
)


def summarize_output(title: str, output: str, log_path: str) -> str:
    """Return one line for a failed program's output: what failed, why, the fix."""
    for pattern, meaning in KNOWN_ERRORS:
        if re.search(pattern, output, re.IGNORECASE):
            return f'{title}: {meaning}'
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r'\berror\b', line, re.IGNORECASE)]
    last = (errors or lines or ['no output'])[-1][:200]
    return f'{title} failed: {last} (full output: {log_path})'


def describe_oserror(error: OSError) -> str:
    """Return one line for an error of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return KNOWN_ERRORS[0][1]
    where = f' ({error.filename})' if error.filename else ''
    return f'{error.strerror or error}{where}'
