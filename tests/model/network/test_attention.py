"""The groups of teacher forcing against a token-by-token reading of its rules."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wam_policy.model.network.attention import attend, group_teacher_forcing
from wam_policy.model.network.layers import ContextKV, CrossAttention, fold_padding
from wam_policy.model.network.model_config import ModelConfig, get_preset

SMALL = replace(get_preset('tiny'), latent_size=(2, 4), actions_per_block=4)


def rows(c: ModelConfig, frames: int, with_noisy: bool) -> list[tuple[str, int, int]]:
    """List every token as (stream, block, frame or own index)."""

    def video(stream: str) -> list[tuple[str, int, int]]:
        return [
            (stream, 0 if f == 0 else (f - 1) // c.frames_per_block + 1, f)
            for f in range(frames)
            for _ in range(c.frame_tokens)
        ]

    blocks = range(1, (frames - 1) // c.frames_per_block + 1)
    actions = [('action', b, i) for b in blocks for i in range(c.actions_per_block)]
    states = [('state', b, i) for b in blocks for i in range(c.states_per_block)]
    return video('clean') + (video('noisy') if with_noisy else []) + actions + states


def sees(c: ModelConfig, query: tuple[str, int, int], key: tuple[str, int, int]) -> bool:
    (kind, block, _), (other, other_block, frame) = query, key
    if kind == 'clean':
        end = 1 + block * c.frames_per_block
        in_window = frame == 0 or max(1, end - c.window_frames) <= frame < end
        return other == 'clean' and other_block <= block and in_window
    if kind == 'state' and c.masked_state:
        return query == key
    return other_block < block if other == 'clean' else other_block == block


@settings(deadline=None, max_examples=30)
@given(
    per_block=st.integers(1, 3),
    blocks=st.integers(1, 4),
    window=st.integers(1, 4),
    states=st.sampled_from([1, 2]),
    masked=st.booleans(),
    noisy=st.booleans(),
)
def test_mask(
    per_block: int, blocks: int, window: int, states: int, masked: bool, noisy: bool
) -> None:
    c = replace(
        SMALL,
        frames_per_block=per_block,
        window_blocks=window,
        states_per_block=states,
        masked_state=masked,
    )
    frames = 1 + blocks * per_block
    tokens = rows(c, frames, noisy)
    for skip in (False, True):
        kept = [
            token
            for token in tokens
            if not (
                skip
                and (
                    (token[0] == 'clean' and token[1] == blocks)
                    or (token[0] == 'noisy' and token[1] == 0)
                )
            )
        ]
        grouped = group_teacher_forcing(c, frames, noisy, skip)
        wanted = [[sees(c, query, key) for key in kept] for query in kept]
        assert grouped.make_mask(len(kept)).tolist() == wanted


@pytest.mark.parametrize('masked', [True, False])
@pytest.mark.parametrize('skip', [True, False])
def test_groups_attend_as_one_attention_under_the_mask(masked: bool, skip: bool) -> None:
    c = replace(SMALL, masked_state=masked, frames_per_block=2, states_per_block=2)
    grouped = group_teacher_forcing(c, 1 + 3 * 2, True, skip)
    tokens = max(stop for group in grouped.groups for _, stop in group.queries)
    q, k, v = (torch.randn(2, 3, tokens, 8, requires_grad=True) for _ in range(3))
    mask = grouped.make_mask(tokens)
    assert mask.diagonal().all()
    got = grouped.attend(q, k, v)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(got)
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), (q, k, v)),
        torch.autograd.grad((want * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_half_precision_is_differentiated_by_the_unfused_kernel() -> None:
    q, k, v = (torch.randn(1, 2, 5, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    want = F.scaled_dot_product_attention(*(x.float() for x in (q, k, v)))
    torch.testing.assert_close(attend(q, k, v).float(), want, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize('lengths', [(3, 3), (0, 5), (20, 4), (64, 64)])
def test_folded_padding_is_attended_to_as_all_of_it(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = replace(get_preset('tiny'), text_len=64)
    attention = CrossAttention(config)
    text = torch.randn(2, config.text_len, config.dim)
    for row, length in zip(text, lengths, strict=True):
        row[length:] = 0
    folded, bias = fold_padding(text)
    kept = max(lengths)
    if kept == config.text_len:
        assert bias is None and folded is text
    else:
        assert folded.shape[1] == kept + 1 and bias is not None
    x = torch.randn(2, 9, config.dim)
    with torch.no_grad():
        want = attention(x, ContextKV(attention.compute_text_kv(text), None))
        found = attention(x, ContextKV(attention.compute_text_kv(folded), None, bias))
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
