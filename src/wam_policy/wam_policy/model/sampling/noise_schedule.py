"""Compute noise levels: the schedules of inference and the table that training draws from.

A noise level sigma is 1 for pure noise and 0 for data. The solver uses it exactly; the network
reads the integer below 1000 sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
# Pure noise but for one training step, before the shift; the reference keeps it in float32.
SIGMA_MAX = torch.tensor(1 - 1 / NUM_TRAIN_TIMESTEPS).item()


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """Hold the noise levels of a schedule, its end included, and the times the network reads."""

    sigmas: tuple[float, ...]  # [steps+1], float32 values
    timesteps: tuple[int, ...]  # [steps]

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def make_unipc_schedule(steps: int, shift: float) -> NoiseSchedule:
    """Return a schedule from noise to data; `shift` > 1 puts more steps near the noise."""
    if steps < 1:
        raise ValueError(f'want at least 1 sampling step, got {steps}')
    grid = SIGMA_MAX - torch.arange(steps, dtype=torch.float64) * (SIGMA_MAX / steps)
    sigmas = shift_sigmas(grid, shift)
    return NoiseSchedule(
        (*sigmas.float().tolist(), 0.0), tuple((NUM_TRAIN_TIMESTEPS * sigmas).long().tolist())
    )


def decouple_schedule(schedule: NoiseSchedule, final_noise: float) -> NoiseSchedule:
    """End a schedule at `final_noise` instead of data, as for video in one-step inference."""
    if not 0 <= final_noise < 1:
        raise ValueError(f'want a final noise level in [0, 1), got {final_noise}')
    sigmas = torch.tensor(schedule.sigmas)
    sigmas = sigmas * (sigmas[0] - final_noise) / sigmas[0] + final_noise
    timesteps = (NUM_TRAIN_TIMESTEPS * sigmas[:-1]).long()
    return NoiseSchedule(tuple(sigmas.tolist()), tuple(timesteps.tolist()))


def shift_sigmas(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def make_training_sigmas(shift: float) -> Tensor:
    """Return the noise levels [1000] that training draws from, highest first."""
    return shift_sigmas(torch.linspace(1, 0, NUM_TRAIN_TIMESTEPS + 1)[:-1], shift)


def make_training_weights(sigmas: Tensor) -> Tensor:
    """Weigh the loss at each noise level of the table: a bell around 0.5 with mean 1."""
    bell = torch.exp(
        -2 * ((NUM_TRAIN_TIMESTEPS * sigmas - NUM_TRAIN_TIMESTEPS / 2) / NUM_TRAIN_TIMESTEPS) ** 2
    )
    bell = bell - bell.min()
    return bell * (len(sigmas) / bell.sum())


@dataclass(frozen=True, slots=True)
class UniPCUpdate:
    """Weights of one update, keep * sample - scale * (data + near * D1 + far * D2 / ratio).

    D1 and D2 are changes of data. Weights are float32 scalars on the CPU, the kind of operand
    that the reference multiplies its samples with: it decides how bfloat16 rounds.
    """

    order: int
    keep: Tensor
    scale: Tensor
    near: Tensor
    far: Tensor
    ratio: Tensor  # of step sizes

    @classmethod
    def from_floats(
        cls, order: int, keep: float, scale: float, near: float, far: float, ratio: float
    ) -> UniPCUpdate:
        return cls(order, *torch.tensor([keep, scale, near, far, ratio]).unbind())


@dataclass(frozen=True, slots=True)
class UniPCStep:
    """Hold a correction of the sample at `sigma` (None at the start) and the next prediction."""

    sigma: Tensor
    correct: UniPCUpdate | None
    predict: UniPCUpdate


@lru_cache(maxsize=64)
def compute_unipc_steps(schedule: NoiseSchedule) -> tuple[UniPCStep, ...]:
    """Compute the second-order UniPC (bh2) updates of arXiv 2302.04867.

    They depend on the schedule alone. Data is the clean sample that a velocity implies.
    """
    sigmas = schedule.sigmas
    return tuple(
        UniPCStep(
            torch.tensor(sigmas[i]), _corrector(sigmas, i) if i else None, _predictor(sigmas, i)
        )
        for i in range(schedule.steps)
    )


def _half_log_snr(sigma: float) -> float:
    return math.log(1 - sigma) - math.log(sigma) if sigma > 0 else math.inf


def _corrector(sigmas: tuple[float, ...], i: int) -> UniPCUpdate:
    level = _half_log_snr(sigmas[i - 1])
    h = _half_log_snr(sigmas[i]) - level
    b = math.expm1(-h)
    keep, scale = sigmas[i] / sigmas[i - 1], (1 - sigmas[i]) * b
    if i == 1:
        return UniPCUpdate.from_floats(1, keep, scale, near=0.5, far=0.0, ratio=1.0)
    ratio = (_half_log_snr(sigmas[i - 2]) - level) / h
    first = b / -h - 1
    second = first / -h - 0.5
    # far + near = first / b and ratio * far + near = 2 * second / b
    far = (2 * second - first) / b / (ratio - 1)
    return UniPCUpdate.from_floats(2, keep, scale, near=first / b - far, far=far, ratio=ratio)


def _predictor(sigmas: tuple[float, ...], i: int) -> UniPCUpdate:
    level = _half_log_snr(sigmas[i])
    h = _half_log_snr(sigmas[i + 1]) - level
    keep, scale = sigmas[i + 1] / sigmas[i], (1 - sigmas[i + 1]) * math.expm1(-h)
    if i in (0, len(sigmas) - 2):  # no past yet, or the end
        return UniPCUpdate.from_floats(1, keep, scale, near=0.0, far=0.0, ratio=1.0)
    ratio = (_half_log_snr(sigmas[i - 1]) - level) / h
    return UniPCUpdate.from_floats(2, keep, scale, near=0.5, far=0.0, ratio=ratio)
