"""Our UMT5 encoder against that of transformers, with its weights and names."""

import subprocess
import sys

import pytest
import torch

from wam_policy.model.encoders import text_encoder
from wam_policy.model.encoders.text_encoder import TextConfig, TextEncoder
from wam_policy.model.encoders.umt5_encoder import find_distance_bucket

CONFIG = TextConfig(300, 32, 4, 12, 48, 2, 32)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_it_is_the_encoder_of_transformers(dtype: torch.dtype) -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    c = CONFIG
    theirs = UMT5EncoderModel(
        UMT5Config(
            vocab_size=c.vocabulary,
            d_model=c.dim,
            d_kv=c.head_dim,
            d_ff=c.ffn_dim,
            num_layers=c.layers,
            num_heads=c.heads,
            relative_attention_num_buckets=c.buckets,
            dropout_rate=0.0,
            feed_forward_proj='gated-gelu',
            attn_implementation='eager',
        )
    ).eval()
    ours = TextEncoder(c).eval()
    assert {k for k, _ in ours.net.named_parameters()} == {k for k, _ in theirs.named_parameters()}
    for (name, own), other in zip(
        ours.net.named_parameters(),
        (dict(theirs.named_parameters())[k] for k, _ in ours.net.named_parameters()),
        strict=True,
    ):
        if own.ndim > 1 and own.numel() > 1000:  # drawn from the same distribution
            assert own.std().item() == pytest.approx(other.std().item(), rel=0.1), name
    ours.net.load_state_dict(dict(theirs.named_parameters()))
    ids = torch.randint(3, 300, (2, 200))
    mask = torch.ones(2, 200, dtype=torch.long)
    mask[1, 77:] = 0
    with torch.inference_mode():
        want = theirs.to(dtype)(input_ids=ids, attention_mask=mask).last_hidden_state
        got = ours.to(dtype)(ids, mask)
    assert not got[1, 77:].any()
    limits = {'atol': 1e-5, 'rtol': 1e-5} if dtype == torch.float32 else {'atol': 0.1, 'rtol': 0.1}
    torch.testing.assert_close(got[0], want[0], **limits)
    torch.testing.assert_close(got[1, :77], want[1, :77], **limits)


def test_near_distances_have_buckets_of_their_own_and_far_ones_share() -> None:
    found = find_distance_bucket(torch.tensor([0, 1, -1, 7, -7, 127, 500, -500]), 32)
    assert found.tolist() == [0, 17, 1, 23, 7, 31, 31, 15]


def test_a_small_model_starts_without_the_library_of_large_ones() -> None:
    """Its import takes longer than everything else in the start of a worker but torch."""
    code = (
        'import sys, torch\n'
        'from wam_policy.core.robot import checkpoints\n'
        'from wam_policy.model.checkpoint import checkpoint_folder\n'
        'from wam_policy.model import robot_policy\n'
        'folder = checkpoints.resolve_checkpoint("mini")\n'
        'checkpoint_folder.load(folder, torch.device("cpu"), torch.float32)\n'
        'print(sorted({"transformers", "diffusers", "sympy", "torch._dynamo", "modelopt"}'
        ' & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == '[]\n', done.stdout + done.stderr


def test_padding_is_hidden_by_an_additive_mask() -> None:
    seen = text_encoder.make_padding_mask(torch.tensor([[1, 1, 0]]))
    assert seen.shape == (1, 1, 1, 3) and (seen < -1e30).flatten().tolist() == [False, False, True]
