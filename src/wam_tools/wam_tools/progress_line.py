"""Show a changing status: one line that a terminal rewrites, elsewhere the changes alone."""

import shutil
import sys
from typing import TextIO

ERASE_LINE = '\r\x1b[2K'


class ProgressLine:
    """Print statuses over one another; other lines appear above the current one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._shown = ''

    def show(self, elapsed_s: float, text: str) -> None:
        """Show a status; where lines cannot be rewritten, only one that differs from the last."""
        if self._stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = f'{elapsed_s:5.0f} s  {text}'
            self._write(ERASE_LINE + line[:width])  # a wrapped line could not be erased
        elif text != self._shown:
            self._write(f'{elapsed_s:5.0f} s  {text}\n')
        self._shown = text

    def print(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        self._write(text + '\n')

    def close(self) -> None:
        """Keep the current line on a terminal: what follows begins on a new one."""
        if self._shown and self._stream.isatty():
            self._write('\n')
        self._shown = ''

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
