"""Exported passes: a runtime that never saw torch finds the same velocities and memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model import toy_network
from tests.model.toy_network import make_model
from wam_policy.model.execution import onnx_export, quantization
from wam_policy.model.execution.quantization import Calibration
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT

onnxruntime = pytest.importorskip('onnxruntime')

PLAIN = replace(toy_network.CONFIG, dim=48, ffn_dim=64)
WITH_IMAGE = replace(PLAIN, image_context=True, image_dim=6, condition_channels=5)


class OnnxPass:
    """Run an exported pass."""

    def __init__(self, made: VideoActionDiT, kind: str, folder: Path) -> None:
        onnx_export.export_pass(made, kind, folder / f'{kind}.onnx')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / f'{kind}.onnx'), options)
        self._names = onnx_export.input_names(made.config, kind)
        assert [x.name for x in self._session.get_outputs()] == onnx_export.output_names(
            made.config, kind
        )

    def __call__(self, given: onnx_export.PassInputs) -> list[Tensor]:
        values = zip(self._names, given.flat_tensors, strict=True)
        found = self._session.run(None, {name: x.numpy() for name, x in values})
        return [torch.from_numpy(np.asarray(x)) for x in found]


class CachedModel:
    """A memory with something in it, and passes on top."""

    def __init__(self, made: VideoActionDiT, fill: int) -> None:
        c = self.c = made.config
        self.made = made
        torch.manual_seed(fill)
        image = torch.randn(1, onnx_export.IMAGE_TOKENS, c.image_dim) if c.image_context else None
        self.context = made.embed_context(torch.randn(1, c.text_len, c.text_dim), image)
        self.cache = KVCache(c, 1, 'cpu', torch.float32)
        made.append_kv(*self.make_append_kv_arguments(fill))
        self.cache.commit(fill)

    def embed_flow_time(self, t: float):
        return self.made.embed_flow_time(torch.full((1, 1), t))

    def draw_latents(self, frames: int) -> tuple[Tensor, Tensor | None]:
        c = self.c
        video = torch.randn(1, c.latent_channels, frames, *c.latent_size)
        condition = torch.randn(1, c.condition_channels, frames, *c.latent_size)
        return video, condition if c.condition_channels else None

    def make_append_kv_arguments(self, frames: int) -> tuple:
        video, condition = self.draw_latents(frames)
        rotation = self.made.compute_video_rotation(self.cache.frames, frames)
        return video, self.embed_flow_time(0.0), rotation, self.context, self.cache, condition

    def make_denoise_arguments(self, t_video: float, t_action: float) -> tuple:
        c = self.c
        video, condition = self.draw_latents(c.frames_per_block)
        return (
            video,
            torch.randn(1, c.actions_per_block, c.action_dim),
            torch.randn(1, 1, c.state_dim),
            self.embed_flow_time(t_video),
            self.embed_flow_time(t_action),
            self.made.compute_block_rotation(self.cache.frames),
            self.context,
            self.cache,
            condition,
        )


def error(got: Tensor, want: Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize(
    'config', [pytest.param(PLAIN, marks=pytest.mark.slow), WITH_IMAGE], ids=['plain', 'image']
)
def test_both_passes_are_torch_at_every_fill(config: ModelConfig, tmp_path: Path) -> None:
    made = make_model(config)
    denoise, append_kv = (OnnxPass(made, kind, tmp_path) for kind in onnx_export.PASSES)
    for fill in (1, 3, 5, 7):
        life = CachedModel(made, fill)
        asked = life.make_denoise_arguments(900.0, 400.0)
        given = onnx_export.make_denoise_inputs(*asked)
        before = [x.clone() for x in given.kv]
        for got, want in zip(denoise(given), made.denoise(*asked), strict=True):
            assert error(got, want) < 1e-4
        assert all(torch.equal(a, b) for a, b in zip(given.kv, before, strict=True))
        seen = life.make_append_kv_arguments(config.frames_per_block)
        new = append_kv(onnx_export.make_append_kv_inputs(*seen))
        made.append_kv(*seen)
        at, end = life.cache.length, life.cache.length + 2 * config.frame_tokens
        for layer in range(config.layers):
            for got, buffer in zip(
                new[2 * layer :], (life.cache.keys, life.cache.values), strict=False
            ):
                want = buffer[layer][:, :, at:end].transpose(1, 2)
                assert got.shape == want.shape and error(got, want) < 1e-4


def test_memory_goes_in_without_a_copy() -> None:
    life = CachedModel(make_model(PLAIN), 5)
    given = onnx_export.make_denoise_inputs(*life.make_denoise_arguments(1.0, 1.0))
    views, keys = given.kv, life.cache.keys
    assert all(x.is_contiguous() for x in given.context)
    assert given.context[0].data_ptr() == life.context[0].text[0].data_ptr()
    assert all(view.is_contiguous() and view.shape[1] == 5 * PLAIN.frame_tokens for view in views)
    assert views[0].data_ptr() == keys.data_ptr()
    assert views[2].untyped_storage().data_ptr() == keys.untyped_storage().data_ptr()


@pytest.mark.parametrize('scheme', ['int8', 'fp8'])
def test_calibrated_linears_become_pairs_of_quantise_and_dequantise(
    scheme: str, tmp_path: Path
) -> None:
    reader = pytest.importorskip('onnx')
    made = make_model(PLAIN)
    amax = dict.fromkeys(quantization.find_linears(made), 6.0)
    quantization.install_quantized_linears(made, Calibration(scheme, amax))
    graph = OnnxPass(made, 'denoise', tmp_path)
    nodes = [node.op_type for node in reader.load(tmp_path / 'denoise.onnx').graph.node]
    # of 8 linears a layer, self-attention's three read one input, which is quantised once
    assert nodes.count('QuantizeLinear') == 6 * PLAIN.layers
    assert nodes.count('DequantizeLinear') == (6 + 8) * PLAIN.layers
    asked = CachedModel(made, 3).make_denoise_arguments(700.0, 700.0)
    for got, want in zip(
        graph(onnx_export.make_denoise_inputs(*asked)), made.denoise(*asked), strict=True
    ):
        assert error(got, want) < 1e-2


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='want one of denoise, append_kv'):
        onnx_export.export_pass(make_model(PLAIN), 'dream', tmp_path / 'x.onnx')
    uncalibrated = quantization.install_quantized_linears(
        make_model(PLAIN), Calibration('fp8', {})
    )
    with pytest.raises(ValueError, match='calibrate first'):
        onnx_export.export_pass(uncalibrated, 'denoise', tmp_path / 'x.onnx')


def test_the_old_name_of_a_pass_is_accepted_with_a_warning(capsys) -> None:
    from wam_policy.workers import export_engine

    assert export_engine.parse_pass('remember') == 'append_kv'
    assert 'use --pass append_kv' in capsys.readouterr().err
    assert export_engine.parse_pass('denoise') == 'denoise' and not capsys.readouterr().err
