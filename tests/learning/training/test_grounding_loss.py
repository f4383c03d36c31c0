"""Labels of the grounding loss, and the heads that learn from them."""

import numpy as np
import pytest
import torch

from wam_learning.training.grounding_loss import OBJECT_SIZE, GroundingHeads, GroundingTargets
from wam_policy.core.observation import view_tiles

LAYOUT = view_tiles.make_layout('head_beside_hands', ('head', 'left', 'right'), 64, 64)
PLACES = GroundingTargets(LAYOUT, (4, 6), np.array([0.7, 0.0]), np.array([0.1, 0.2]))


def test_an_object_is_shared_out_over_the_patches_that_show_it() -> None:
    share = PLACES.patch_targets(
        np.array([[0.375, 0.625], [0.5, 0.5], [0.01, 0.5], [np.nan, 0.5]])
    )
    assert share.shape == (4, 24)
    # the crop widens the middle: 0.375 lies at 0.368 of the tile, in column 1, row 2
    assert share[0].argmax() == 2 * 6 + 1 and share[0].max() == pytest.approx(1.0)
    assert sorted(np.flatnonzero(share[1])) == [7, 8, 13, 14]
    assert share[1][[7, 8, 13, 14]] == pytest.approx(0.25)
    assert not share[2].any()  # cropped away
    assert not share[3].any()
    assert 0 < OBJECT_SIZE < 0.25


def test_hands_never_hold_the_label() -> None:
    rng = np.random.default_rng(0)
    share = PLACES.patch_targets(rng.random((500, 2)) * 0.9 + 0.05).reshape(500, 4, 6)
    assert share.sum((1, 2)) == pytest.approx(1.0)
    assert share[:, :, 5].sum() == 0


def test_heads_learn_from_labelled_blocks_only() -> None:
    torch.manual_seed(0)
    heads, tokens = GroundingHeads(16), torch.randn(2, 2 * 24, 16)
    share, place = torch.zeros(2, 2, 24), torch.full((2, 2, 2), torch.nan)
    nothing = heads(tokens, torch.randn(2, 8, 16), 24, share, place)
    assert [float(x) for x in nothing] == [0, 0, 0]
    share[0, 1, 5], place[1, 0] = 1, torch.tensor([0.5, -0.5])
    some = heads(tokens, torch.randn(2, 8, 16), 24, share, place)
    logits = heads.patch(tokens)[0, 24:, 0]
    assert float(some.patch) == pytest.approx(float(-logits.log_softmax(0)[5]), abs=1e-5)
    assert float(some.place) > 0
    (some.patch + some.place).backward()
    assert all(p.grad is not None for p in heads.parameters())
