"""Log a training to the terminal, to CSV files and to TensorBoard."""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

_SMOOTHING = 0.98


class TrainingLogger:
    """Smooth losses and write them; a resumed run appends to the files.

    A disabled logger, in processes other than the first, writes nothing.
    """

    def __init__(self, folder: Path, disabled: bool = False) -> None:
        self._folder, self._disabled = folder, disabled
        self._tensorboard = None
        if not disabled:
            folder.mkdir(parents=True, exist_ok=True)
            self._tensorboard = SummaryWriter(str(folder / 'tensorboard'))
        self._smoothed: dict[str, float] = {}

    def add_losses(self, losses: Mapping[str, float]) -> None:
        """Add the losses of a step."""
        for name, value in losses.items():
            before = self._smoothed.get(name, value)
            self._smoothed[name] = _SMOOTHING * before + (1 - _SMOOTHING) * value

    def log_losses(self, step: int, elapsed_s: float, remaining_s: float) -> None:
        """Write the smoothed losses to the log and one line to the terminal."""
        self._write_scalars('train', step, elapsed_s, self._smoothed)
        losses = ', '.join(f'{name} {value:.4f}' for name, value in self._smoothed.items())
        self._print(f'step {step}, {elapsed_s:.0f} s, {remaining_s:.0f} s to go: {losses}')

    def log_metrics(
        self, step: int, elapsed_s: float, metrics: Mapping[str, float], summary: str
    ) -> None:
        """Write validation metrics to the log and `summary` to the terminal."""
        self._write_scalars('heldout', step, elapsed_s, metrics)
        self._print(f'  held out: {summary}')

    def log_message(self, text: str) -> None:
        self._print(text)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _write_scalars(
        self, kind: str, step: int, elapsed_s: float, values: Mapping[str, float]
    ) -> None:
        if self._tensorboard is None:
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
            self._tensorboard.add_scalar(f'{kind}/{name}', value, step)

    def _print(self, text: str) -> None:
        if not self._disabled:
            sys.stdout.write(text + '\n')
            sys.stdout.flush()
