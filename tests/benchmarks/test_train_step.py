"""Sums of a training step against published figures, and a measured step at toy size."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import train_step
from wam_policy.model.network.model_config import get_preset

META = torch.device('meta')


def test_what_is_trained_and_held_is_what_the_release_says() -> None:
    c = get_preset('dreamzero_14b')
    found = train_step.count_memory(c, train_step.make_block(c, 4, META))
    assert found['layer_adapters_MB'] * c.layers / 4 == pytest.approx(19.17, abs=0.01)
    assert found['trained_parameters'] == pytest.approx(19.17e6 + 89.41e6, rel=1e-4)
    assert found['weights_GB'] == pytest.approx(32.97 - 2 * 89.41e-3, abs=0.01)
    # clean frames but the last block, noisy frames but the first, four registers
    assert train_step.TrainingWindow(c, 4, META).tokens == (7 + 8) * 880 + 4 * 25


def test_a_layer_recomputed_costs_three_passes_of_its_linears() -> None:
    """Frozen weights want no gradient of their own: forward, again, and back to the input."""
    c = get_preset('dreamzero_14b')
    chosen = SimpleNamespace(rank=4, rate=100.0, rounds=1)
    row = train_step.measure_window(c, train_step.make_block(c, 4, META), 1, chosen, META)
    linears = 2 * row['tokens'] * (6 * c.dim**2 + 2 * c.dim * c.ffn_dim) / 1e12
    assert 3 * linears < row['layer_TFLOP'] < 3.8 * linears
    assert row['estimated_step_s'] == pytest.approx(row['step_TFLOP'] / 100, abs=0.01)


def test_a_small_step_is_measured() -> None:
    c, cpu = get_preset('tiny'), torch.device('cpu')
    chosen = SimpleNamespace(rank=2, rate=100.0, rounds=1)
    layer = train_step.make_block(c, 2, cpu)
    row = train_step.measure_window(c, layer, 4, chosen, cpu)
    assert row['layer_s'] > 0 and row['tokens'] == (4 + 4) * 24 + 4 * 25
    assert all(p.grad is None for p in layer.parameters())
