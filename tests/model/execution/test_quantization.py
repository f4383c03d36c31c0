"""Quantised linears: real 8-bit arithmetic says what modelopt's simulation of it says."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.model import toy_network
from wam_policy.model.execution import quantization
from wam_policy.model.execution.quantization import NUMBER_FORMATS, Calibration, QuantizedLinear
from wam_policy.model.network.cfg import CfgBranch, PositionTimeCache
from wam_policy.model.network.video_action_dit import VideoActionDiT

CONFIG = replace(
    toy_network.CONFIG, dim=64, ffn_dim=96, window_blocks=2, image_context=True, image_dim=6
)


def model() -> VideoActionDiT:
    return toy_network.make_model(CONFIG)


@torch.inference_mode()
def velocities(dit: VideoActionDiT) -> Tensor:
    """Commit a frame and ask for three seeds' actions and videos, as one vector."""
    torch.manual_seed(1)
    branch = CfgBranch(dit, dit, PositionTimeCache(dit))

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape).to(dit.device, dit.dtype)

    branch.set_text(drawn(1, 4, 8))
    branch.set_image(drawn(1, 3, 6))
    branch.append_kv(drawn(1, 3, 1, 2, 4), None)
    branch.cache.commit(1)
    out = []
    for t in (999, 600, 100):
        velocity = branch.make_velocity_fn(drawn(1, 1, 5), None)
        out += velocity(drawn(1, 3, 2, 2, 4), drawn(1, 4, 3), t, t)
    return torch.cat([x.flatten() for x in out])


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.float(), b.float(), dim=0).item()


def simulated(scheme: str) -> tuple[VideoActionDiT, Calibration]:
    pytest.importorskip('modelopt')
    dit = model()
    found = quantization.calibrate(dit, scheme, lambda: velocities(dit))
    return dit, found


@pytest.mark.parametrize('scheme', ['fp8', 'int8'])
def test_the_arithmetic_is_what_was_simulated(scheme: str) -> None:
    want = velocities(model())
    dit, calibration = simulated(scheme)
    assert set(calibration.input_amax) == set(quantization.find_linears(model()))
    assert all(amax > 0 for amax in calibration.input_amax.values())
    told = velocities(dit)
    quantization.install_quantized_linears(dit, calibration)
    real = velocities(dit)
    assert cosine(told, want) > 0.995 and cosine(real, want) > 0.995
    assert not torch.equal(told, want), 'nothing was quantised'
    # the same rounding, so nearer to each other than to the exact model
    assert (real - told).abs().max() < 0.3 * (told - want).abs().max()


def test_what_is_sensitive_keeps_its_type() -> None:
    dit = quantization.install_quantized_linears(model(), Calibration('fp8', {}))
    quantised = {name for name, x in dit.state_dict().items() if x.dtype == torch.float8_e4m3fn}
    assert len(quantised) == 8 * CONFIG.layers
    for kept in (
        'patch_embedding',
        'time_embedding',
        'time_projection',
        'head',
        'state_encoder',
        'action_encoder',
        'action_decoder',
        'text_embedding',
        'img_emb',
    ):
        assert not any(name.startswith(kept) for name in quantised)
    assert not any(
        f'cross_attn.{key}' in name
        for name in quantised
        for key in ('k.', 'v.', 'k_img', 'v_img', 'norm')
    )


@pytest.mark.parametrize('scheme', ['fp8', 'int8'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_scales_per_token_need_no_calibration(scheme: str, dtype: torch.dtype) -> None:
    want = velocities(model())
    dit = quantization.install_quantized_linears(model().to(dtype), Calibration(scheme, {}))
    got = velocities(dit)
    assert got.dtype == dtype and 0.998 < cosine(got, want) < 0.999999
    assert all(module.weight.itemsize == 1 for module in quantization.find_linears(dit).values())


@pytest.mark.parametrize('scheme', ['fp8', 'int8'])
def test_an_input_beyond_its_calibration_saturates(scheme: str) -> None:
    linear = nn.Linear(16, 16).requires_grad_(False)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    made = QuantizedLinear(NUMBER_FORMATS[scheme], linear, 2.0)
    out = made(torch.full((1, 3, 16), 100.0))
    torch.testing.assert_close(out, torch.full((1, 3, 16), 2.0), rtol=1e-2, atol=1e-2)


def test_nvfp4_says_what_it_wants() -> None:
    with pytest.raises(ValueError, match='nvfp4 needs a CUDA device'):
        quantization.calibrate(model(), 'nvfp4', lambda: None)
    with pytest.raises(ValueError, match='only be simulated'):
        quantization.install_quantized_linears(model(), Calibration('nvfp4', {}))
    config = quantization.make_modelopt_config('nvfp4')
    formats = [entry['cfg'] for entry in config['quant_cfg'] if 'cfg' in entry]
    assert all(form['num_bits'] == (2, 1) and form['block_sizes'][-1] == 16 for form in formats)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_nvfp4_is_simulated_on_a_gpu() -> None:
    pytest.importorskip('modelopt')
    dit = model().cuda()
    want = velocities(dit)
    quantization.calibrate(dit, 'nvfp4', lambda: velocities(dit))
    assert cosine(velocities(dit), want) > 0.95


def test_a_calibration_is_kept_and_checked(tmp_path: Path) -> None:
    amax = {name: 1.0 + i for i, name in enumerate(quantization.find_linears(model()))}
    path = tmp_path / 'calibration.json'
    Calibration('int8', amax).save(path)
    found = quantization.load_calibration(str(path))
    assert found == Calibration('int8', amax)
    del amax['blocks.0.ffn.0']
    with pytest.raises(ValueError, match=r'another model: 1 of 16 linears differ, blocks.0.ffn.0'):
        quantization.install_quantized_linears(model(), Calibration('int8', amax))
    path.write_text(json.dumps({'scheme': 'int3', 'input_amax': {}}))
    with pytest.raises(ValueError, match='int3'):
        quantization.load_calibration(str(path))
    path.write_text('{')
    with pytest.raises(ValueError, match='not a calibration'):
        quantization.load_calibration(str(path))


def test_precisions_are_named() -> None:
    assert quantization.load_calibration('full') is None
    assert quantization.load_calibration('fp8') == Calibration('fp8', {})
    with pytest.raises(ValueError, match='want full, fp8, int8 or a calibration'):
        quantization.load_calibration('fp5')


def test_calibrating_twice_changes_nothing() -> None:
    dit, first = simulated('fp8')
    plain = model()
    assert first == quantization.calibrate(plain, 'fp8', lambda: velocities(plain))
    kept = copy.deepcopy(first)
    quantization.install_quantized_linears(dit, first)
    assert first == kept
