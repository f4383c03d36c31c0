"""Noise levels and solver weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.sampling.noise_schedule import (
    compute_unipc_steps,
    decouple_schedule,
    make_training_sigmas,
    make_training_weights,
    make_unipc_schedule,
)


@settings(deadline=None)
@given(steps=st.integers(1, 64), shift=st.floats(1, 12))
def test_walks_start_at_noise_and_end_at_data(steps: int, shift: float) -> None:
    walk = make_unipc_schedule(steps, shift)
    assert walk.steps == steps and walk.sigmas[-1] == 0
    assert 0.998 < walk.sigmas[0] < 1 and 998 < walk.timesteps[0] < 1000
    assert all(a > b for a, b in zip(walk.sigmas, walk.sigmas[1:], strict=False))
    assert all(
        t == int(1000 * s) or math.isclose(t, 1000 * s, rel_tol=1e-5)
        for t, s in zip(walk.timesteps, walk.sigmas, strict=False)
    )


@settings(deadline=None)
@given(steps=st.integers(1, 32), end=st.floats(0.05, 0.95))
def test_a_decoupled_walk_starts_alike_and_ends_early(steps: int, end: float) -> None:
    walk = make_unipc_schedule(steps, 5.0)
    late = decouple_schedule(walk, end)
    assert late.sigmas[0] == pytest.approx(walk.sigmas[0], abs=1e-6)
    assert late.sigmas[-1] == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize(
    'call',
    [
        lambda: make_unipc_schedule(0, 5.0),
        lambda: decouple_schedule(make_unipc_schedule(4, 5.0), 1.0),
    ],
)
def test_nonsense_is_refused(call) -> None:
    with pytest.raises(ValueError):
        call()


def test_training_weighs_the_middle_most() -> None:
    sigmas = make_training_sigmas(5.0)
    weights = make_training_weights(sigmas)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert weights.min() == 0 and weights.argmin() == 0
    assert sigmas[weights.argmax()].item() == pytest.approx(0.5, abs=0.01)


@settings(deadline=None)
@given(steps=st.integers(2, 32), shift=st.floats(1, 8))
def test_updates_keep_a_sample_that_is_already_data(steps: int, shift: float) -> None:
    """Noise-free and unchanging: keep + (1 - alpha' / alpha) weights must sum up to alpha."""
    walk = make_unipc_schedule(steps, shift)
    for i, step in enumerate(compute_unipc_steps(walk)):
        alpha, later = 1 - walk.sigmas[i], 1 - walk.sigmas[i + 1]
        ahead = step.predict.keep * alpha - step.predict.scale
        torch.testing.assert_close(ahead, torch.tensor(later), atol=1e-5, rtol=1e-4)
