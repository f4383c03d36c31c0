"""Export the two passes of inference as ONNX graphs, with all state as inputs and outputs.

Experimental: never run on a GPU by this project.

The number of cached tokens is dynamic (axis `cached`). The keys and values of each layer are
inputs of their own, [batch cached heads head_dim], in the layout of committed tokens in the cache,
and so are those of the context: a runtime binds addresses and copies nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from wam_policy.model.execution.quantization import QuantizedLinear
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextKV
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT

OPSET = 21  # the first with 8-bit floats in quantize and dequantize
PASSES = ('denoise', 'append_kv')
IMAGE_TOKENS = 257  # of the released image encoder; another count needs another graph


class PassInputs(NamedTuple):
    """Hold the inputs of a pass in the order of the graph; cache and context per layer."""

    action_state: tuple[Tensor, ...]  # action, state; empty for append_kv
    video: Tensor
    condition: tuple[Tensor, ...]  # the image condition; empty for models without
    times: tuple[Tensor, ...]  # a FlowTimeEmbedding of video, then of actions
    rotation: Rotation
    context: tuple[Tensor, ...]  # per layer: text keys, values, image keys, values
    kv: tuple[Tensor, ...]  # per layer: keys, values [batch cached heads head_dim]

    @property
    def flat_tensors(self) -> tuple[Tensor, ...]:
        return (
            *self.action_state,
            self.video,
            *self.condition,
            *self.times,
            *self.rotation,
            *self.context,
            *self.kv,
        )


def input_names(config: ModelConfig, kind: str) -> list[str]:
    """Return the names of a graph's inputs."""
    denoises = kind == 'denoise'
    owners = ('video', 'action') if denoises else ('video',)
    parts = ('text_keys', 'text_values') + (
        ('image_keys', 'image_values') if config.image_context else ()
    )
    return [
        *(('action', 'state') if denoises else ()),
        'video',
        *(('condition',) if config.condition_channels else ()),
        *(f'{owner}_{part}' for owner in owners for part in ('embedding', 'modulation', 'wave')),
        'cos',
        'sin',
        *(f'{part}.{layer}' for layer in range(config.layers) for part in parts),
        *kv_names(config, ''),
    ]


def kv_names(config: ModelConfig, prefix: str) -> list[str]:
    return [
        f'{prefix}{part}.{layer}' for layer in range(config.layers) for part in ('keys', 'values')
    ]


def output_names(config: ModelConfig, kind: str) -> list[str]:
    """Return the names of a graph's outputs: velocities, or new keys and values per layer."""
    if kind == 'denoise':
        return ['video_velocity', 'action_velocity']
    return kv_names(config, 'new_')


class _AppendedKV:
    """Replace a layer's cache in the graph: concatenate cached and new, and keep the new."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._cached = keys, values
        self.new: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.new = k.transpose(1, 2), v.transpose(1, 2)
        keys, values = (
            torch.cat([old, new], 1).transpose(1, 2)
            for old, new in zip(self._cached, self.new, strict=True)
        )
        return keys, values


class _GraphKVCache:
    """Replace the cache in the graph: the caller passes only what attention may read."""

    def __init__(self, layers: list[_AppendedKV]) -> None:
        self._layers = layers

    def open_layers(self, new_frames: int) -> list[_AppendedKV]:
        return self._layers


class ExportedPass(nn.Module):
    """Run one pass as a function of tensors only."""

    def __init__(self, model: VideoActionDiT, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(input_names(self.model.config, self.kind), flat, strict=True))
        config = self.model.config
        layers = [
            _AppendedKV(given[f'keys.{i}'], given[f'values.{i}']) for i in range(config.layers)
        ]
        context = [self._context(given, i) for i in range(config.layers)]
        rotation, cache = Rotation(given['cos'], given['sin']), _GraphKVCache(layers)
        condition = given.get('condition')
        if self.kind == 'denoise':
            return self.model.denoise(
                given['video'],
                given['action'],
                given['state'],
                _make_flow_time(given, 'video'),
                _make_flow_time(given, 'action'),
                rotation,
                context,
                cast(KVCache, cache),
                condition,
            )
        self.model.append_kv(
            given['video'],
            _make_flow_time(given, 'video'),
            rotation,
            context,
            cast(KVCache, cache),
            condition,
        )
        return tuple(x for layer in layers for x in layer.new or ())

    def _context(self, given: dict[str, Tensor], layer: int) -> ContextKV:
        def pair(of: str) -> tuple[Tensor, Tensor]:
            keys, values = given[f'{of}_keys.{layer}'], given[f'{of}_values.{layer}']
            return keys.transpose(1, 2), values.transpose(1, 2)

        return ContextKV(pair('text'), pair('image') if self.model.config.image_context else None)


def _make_flow_time(given: dict[str, Tensor], owner: str) -> FlowTimeEmbedding:
    return FlowTimeEmbedding(
        *(given[f'{owner}_{part}'] for part in ('embedding', 'modulation', 'wave'))
    )


def make_denoise_inputs(
    video: Tensor,
    action: Tensor,
    state: Tensor,
    video_time: FlowTimeEmbedding,
    action_time: FlowTimeEmbedding,
    rotation: Rotation,
    context: list[ContextKV],
    cache: KVCache,
    condition: Tensor | None = None,
) -> PassInputs:
    """Collect the inputs of a denoising pass; keys and values are views of the cache."""
    return PassInputs(
        (action, state),
        video,
        _as_tuple(condition),
        (*video_time, *action_time),
        rotation,
        _flatten_context(context),
        _slice_cache(cache, video.shape[2]),
    )


def make_append_kv_inputs(
    video: Tensor,
    clean: FlowTimeEmbedding,
    rotation: Rotation,
    context: list[ContextKV],
    cache: KVCache,
    condition: Tensor | None = None,
) -> PassInputs:
    """Collect the inputs of an append_kv pass; keys and values are views of the cache."""
    return PassInputs(
        (),
        video,
        _as_tuple(condition),
        (*clean,),
        rotation,
        _flatten_context(context),
        _slice_cache(cache, video.shape[2]),
    )


def _as_tuple(condition: Tensor | None) -> tuple[Tensor, ...]:
    return () if condition is None else (condition.contiguous(),)


def _flatten_context(context: list[ContextKV]) -> tuple[Tensor, ...]:
    return tuple(
        x.transpose(1, 2)
        for layer in context
        for pair in (layer.text, layer.image)
        if pair is not None
        for x in pair
    )


def _slice_cache(cache: KVCache, frames: int) -> tuple[Tensor, ...]:
    return tuple(
        buffer[:, :, layer.start : layer.write_index].transpose(1, 2)
        for layer in cache.open_layers(frames)
        for buffer in (layer.keys, layer.values)
    )


def make_example_inputs(model: VideoActionDiT, kind: str) -> PassInputs:
    """Make random inputs of a pass, for tracing its shapes."""
    c = model.config
    batch, block = 1, c.frames_per_block

    def draw_random(*shape: int) -> Tensor:
        return torch.randn(shape, device=model.device).to(model.dtype)

    image = draw_random(batch, IMAGE_TOKENS, c.image_dim) if c.image_context else None
    context = model.embed_context(draw_random(batch, c.text_len, c.text_dim), image)
    cache = KVCache(c, batch, model.device, model.dtype)
    cache.commit_temporary(1 + block)
    video = draw_random(batch, c.latent_channels, block, *c.latent_size)
    condition = (
        draw_random(batch, c.condition_channels, block, *c.latent_size)
        if c.condition_channels
        else None
    )
    early, late = (
        model.embed_flow_time(torch.full((1, 1), t, device=model.device)) for t in (999.0, 9.0)
    )
    if kind == 'denoise':
        return make_denoise_inputs(
            video,
            draw_random(batch, c.actions_per_block, c.action_dim),
            draw_random(batch, c.states_per_block, c.state_dim),
            early,
            late,
            model.compute_block_rotation(cache.frames),
            context,
            cache,
            condition,
        )
    return make_append_kv_inputs(
        video, early, model.compute_video_rotation(cache.frames, block), context, cache, condition
    )


@torch.no_grad()
def export_pass(model: VideoActionDiT, kind: str, path: Path) -> None:
    """Write one pass of a model as ONNX; weights are stored beside the graph.

    Raises ValueError for an unknown pass and for 8-bit linears without calibration.

    The graph keeps the model's type, and the 8-bit linears it has, as pairs of quantize and
    dequantize. `denoise` is for a whole block; the number of cached tokens is free.
    """
    if kind not in PASSES:
        raise ValueError(f'pass {kind!r}: want one of {", ".join(PASSES)}')
    if any(isinstance(x, QuantizedLinear) and x.input_scale is None for x in model.modules()):
        raise ValueError(
            'an engine has one input scale per linear, not one per token: calibrate first'
        )
    given, inputs = make_example_inputs(model, kind), input_names(model.config, kind)
    cached = torch.export.Dim(
        'cached', min=1, max=model.config.window_frames * model.config.frame_tokens
    )
    # one entry for `*flat`: keys and values are dynamic in their second axis
    shapes = (
        tuple({1: cached} if name in set(kv_names(model.config, '')) else {} for name in inputs),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's own deprecations
        torch.onnx.export(
            ExportedPass(model, kind).eval(),
            given.flat_tensors,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=output_names(model.config, kind),
            dynamic_shapes=shapes,
            external_data=True,
            verbose=False,
        )
