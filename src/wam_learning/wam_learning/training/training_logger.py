"""What a training tells while it runs: a line on the terminal, a CSV, TensorBoard."""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

_SMOOTH = 0.98


class Journal:
    """Keep smoothed losses and write them down; a continued run appends.

    A silent one, of a process that is not the first of several, writes nothing.
    """

    def __init__(self, folder: Path, silent: bool = False) -> None:
        self._folder, self._silent = folder, silent
        self._board = None
        if not silent:
            folder.mkdir(parents=True, exist_ok=True)
            self._board = SummaryWriter(str(folder / 'tensorboard'))
        self._smooth: dict[str, float] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        """Take the losses of a step."""
        for name, value in losses.items():
            before = self._smooth.get(name, value)
            self._smooth[name] = _SMOOTH * before + (1 - _SMOOTH) * value

    def say(self, step: int, elapsed_s: float, left_s: float) -> None:
        """Write the smoothed losses to the log and one line to the terminal."""
        self._write('train', step, elapsed_s, self._smooth)
        losses = ', '.join(f'{name} {value:.4f}' for name, value in self._smooth.items())
        self._line(f'step {step}, {elapsed_s:.0f} s, {left_s:.0f} s to go: {losses}')

    def figures(self, step: int, elapsed_s: float, found: Mapping[str, float], line: str) -> None:
        """Write held-out figures."""
        self._write('heldout', step, elapsed_s, found)
        self._line(f'  held out: {line}')

    def note(self, text: str) -> None:
        self._line(text)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _write(self, kind: str, step: int, elapsed_s: float, values: Mapping[str, float]) -> None:
        if self._board is None:
            return
        path = self._folder / f'{kind}.csv'
        known = None
        if path.is_file():
            with path.open(newline='') as file:
                known = next(csv.reader(file), None)
        names = known[2:] if known else list(values)
        with path.open('a', newline='') as file:
            table = csv.writer(file)
            if not known:
                table.writerow(['step', 'elapsed_s', *names])
            table.writerow(
                [
                    step,
                    round(elapsed_s, 1),
                    *(f'{values[name]:.6g}' if name in values else '' for name in names),
                ]
            )
        for name, value in values.items():
            self._board.add_scalar(f'{kind}/{name}', value, step)

    def _line(self, text: str) -> None:
        if not self._silent:
            sys.stdout.write(text + '\n')
            sys.stdout.flush()
