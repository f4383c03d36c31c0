"""Packed products: the same results, no parameter kept beside the packed weight."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from wam_policy.model.execution import engines, packed_linear, quantization
from wam_policy.model.execution.packed_linear import PackedLinear
from wam_policy.model.network.cfg import CfgBranch, PositionTimeCache
from wam_policy.model.network.model_config import get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT

CONFIG = replace(get_preset('tiny'), layers=2, image_context=True, image_dim=64)


def make_model() -> VideoActionDiT:
    torch.manual_seed(0)
    return VideoActionDiT(CONFIG).eval().requires_grad_(False)


@pytest.mark.parametrize('rows', [1, 7, 465])
@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('bias', [False, True])
def test_a_product_of_any_number_of_rows_is_that_of_the_linear(
    rows: int, gelu: bool, bias: bool
) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(48, 80, bias=bias).requires_grad_(False)
    want = nn.Sequential(linear, nn.GELU('tanh') if gelu else nn.Identity())
    made = PackedLinear(linear, 20, gelu)
    x = torch.randn(2, rows, 48)
    torch.testing.assert_close(made(x), want(x), atol=1e-5, rtol=1e-5)
    strided = torch.randn(2, 48, rows).transpose(1, 2)
    torch.testing.assert_close(made(strided), want(strided), atol=1e-5, rtol=1e-5)


def test_an_episode_with_packed_weights_is_that_of_plain_ones() -> None:
    c, found = CONFIG, []
    for choice in (True, False):
        model = make_model()
        engine = engines.make_engine('eager', model, pack_weights=choice)
        torch.manual_seed(2)
        with torch.inference_mode():
            branch = CfgBranch(model, engine, PositionTimeCache(model))
            branch.set_text(torch.randn(1, c.text_len, c.text_dim))
            branch.set_image(torch.randn(1, 5, c.image_dim))
            for frames in (1, c.frames_per_block):
                branch.append_kv(torch.randn(1, c.latent_channels, frames, *c.latent_size), None)
                branch.cache.commit(frames)
            velocity = branch.make_velocity_fn(torch.randn(1, 1, c.state_dim), None)
            video = torch.randn(1, c.latent_channels, c.frames_per_block, *c.latent_size)
            velocities = velocity(
                video, torch.randn(1, c.actions_per_block, c.action_dim), 900, 500
            )
            found.append((*velocities, *branch.cache.snapshot()))
        packed = [x for x in model.modules() if isinstance(x, PackedLinear)]
        assert bool(packed) == choice
        if choice:  # a parameter beside its packed copy would double the memory
            assert not any(isinstance(x, nn.Linear) for x in model.blocks.modules())
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_only_full_precision_on_a_cpu_is_packed() -> None:
    assert packed_linear.can_pack(make_model())
    assert not packed_linear.can_pack(make_model().bfloat16())
    assert not packed_linear.can_pack(make_model().to('meta'))
    model = make_model()
    quantized = quantization.load_calibration('int8')
    assert quantized is not None
    quantization.install_quantized_linears(model, quantized)
    before = type(model.layers[0].self_attn.q)
    packed_linear.pack_linears(model)
    attention = model.layers[0].self_attn
    assert before is quantization.QuantizedLinear is type(attention.q)
