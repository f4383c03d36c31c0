"""The two passes as ONNX graphs: everything a pass reads and writes is an input or an output.

A graph has no length of its own: memory grows along the axis `cached`, which is dynamic. Each
layer's memory is an input by itself, [batch cached heads head_dim], exactly as a run of committed
tokens lies in the cache, and so is its context: whoever executes the graph hands over addresses
and copies nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wam_policy.model.execution.quantization import QuantizedLinear
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextMemory
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import FlowTime, VideoActionDiT

OPSET = 21  # the first with 8-bit floats in quantise and dequantise
PASSES = ('denoise', 'remember')
IMAGE_TOKENS = 257  # of the released image encoder; another count is another graph


class Given(NamedTuple):
    """What a pass reads, in the order of the graph's inputs; memory and context per layer."""

    denoised: tuple[Tensor, ...]  # action, state; nothing when remembering
    video: Tensor
    condition: tuple[Tensor, ...]  # the image condition; nothing for models without
    times: tuple[Tensor, ...]  # embedding, modulation, wave: of video, then of actions
    rotation: Rotation
    context: tuple[Tensor, ...]  # per layer: text keys, values, image keys, values, alike
    memory: tuple[Tensor, ...]  # per layer: keys, values [batch cached heads head_dim]

    @property
    def flat(self) -> tuple[Tensor, ...]:
        return (
            *self.denoised,
            self.video,
            *self.condition,
            *self.times,
            *self.rotation,
            *self.context,
            *self.memory,
        )


def names(config: ModelConfig, kind: str) -> list[str]:
    """Name a graph's inputs."""
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
        *memory_names(config, ''),
    ]


def memory_names(config: ModelConfig, prefix: str) -> list[str]:
    return [
        f'{prefix}{part}.{layer}' for layer in range(config.layers) for part in ('keys', 'values')
    ]


def results(config: ModelConfig, kind: str) -> list[str]:
    """Name a graph's outputs: velocities, or what to append to the memory of every layer."""
    if kind == 'denoise':
        return ['video_velocity', 'action_velocity']
    return memory_names(config, 'new_')


class _Appended:
    """Stand for a layer's memory: join what is cached with what is new, and keep the new."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._cached = keys, values
        self.new: tuple[Tensor, Tensor] | None = None

    def extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.new = k.transpose(1, 2), v.transpose(1, 2)
        keys, values = (
            torch.cat([old, new], 1).transpose(1, 2)
            for old, new in zip(self._cached, self.new, strict=True)
        )
        return keys, values


class _Cache:
    """Stand for the cache: the caller has cut every memory to what is in reach."""

    def __init__(self, memories: list[_Appended]) -> None:
        self._memories = memories

    def layers(self, frames: int) -> list[_Appended]:
        return self._memories


class Pass(nn.Module):
    """One pass as a function of tensors alone."""

    def __init__(self, model: VideoActionDiT, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names(self.model.config, self.kind), flat, strict=True))
        config = self.model.config
        memories = [
            _Appended(given[f'keys.{i}'], given[f'values.{i}']) for i in range(config.layers)
        ]
        context = [self._context(given, i) for i in range(config.layers)]
        rotation, cache = Rotation(given['cos'], given['sin']), _Cache(memories)
        condition = given.get('condition')
        if self.kind == 'denoise':
            return self.model.denoise(
                given['video'],
                given['action'],
                given['state'],
                _time(given, 'video'),
                _time(given, 'action'),
                rotation,
                context,
                cache,
                condition,
            )  # type: ignore
        self.model.remember(
            given['video'],
            _time(given, 'video'),
            rotation,
            context,
            cache,  # type: ignore
            condition,
        )
        return tuple(x for memory in memories for x in memory.new or ())

    def _context(self, given: dict[str, Tensor], layer: int) -> ContextMemory:
        def pair(of: str) -> tuple[Tensor, Tensor]:
            keys, values = given[f'{of}_keys.{layer}'], given[f'{of}_values.{layer}']
            return keys.transpose(1, 2), values.transpose(1, 2)

        return ContextMemory(
            pair('text'), pair('image') if self.model.config.image_context else None
        )


def _time(given: dict[str, Tensor], owner: str) -> FlowTime:
    return FlowTime(*(given[f'{owner}_{part}'] for part in ('embedding', 'modulation', 'wave')))


def denoising(
    video: Tensor,
    action: Tensor,
    state: Tensor,
    video_time: FlowTime,
    action_time: FlowTime,
    rotation: Rotation,
    context: list[ContextMemory],
    cache: KVCache,
    condition: Tensor | None = None,
) -> Given:
    """Gather what a denoising pass reads; the memory as views into the cache."""
    return Given(
        (action, state),
        video,
        _some(condition),
        (*video_time, *action_time),
        rotation,
        _flat(context),
        _memory(cache, video.shape[2]),
    )


def remembering(
    video: Tensor,
    clean: FlowTime,
    rotation: Rotation,
    context: list[ContextMemory],
    cache: KVCache,
    condition: Tensor | None = None,
) -> Given:
    """Gather what a clean pass reads; the memory as views into the cache."""
    return Given(
        (),
        video,
        _some(condition),
        (*clean,),
        rotation,
        _flat(context),
        _memory(cache, video.shape[2]),
    )


def _some(condition: Tensor | None) -> tuple[Tensor, ...]:
    return () if condition is None else (condition.contiguous(),)


def _flat(context: list[ContextMemory]) -> tuple[Tensor, ...]:
    return tuple(
        x.transpose(1, 2) for layer in context for pair in layer if pair is not None for x in pair
    )


def _memory(cache: KVCache, frames: int) -> tuple[Tensor, ...]:
    return tuple(
        buffer[:, :, layer.begin : layer.at].transpose(1, 2)
        for layer in cache.layers(frames)
        for buffer in (layer.keys, layer.values)
    )


def example(model: VideoActionDiT, kind: str) -> Given:
    """Make up what a pass reads: shapes count, values do not."""
    c = model.config
    batch, block = 1, c.frames_per_block

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, device=model.device).to(model.dtype)

    image = drawn(batch, IMAGE_TOKENS, c.image_dim) if c.image_context else None
    context = model.context(drawn(batch, c.text_len, c.text_dim), image)
    cache = KVCache(c, batch, model.device, model.dtype)
    cache.extend(1 + block)
    video = drawn(batch, c.latent_channels, block, *c.latent_size)
    condition = (
        drawn(batch, c.condition_channels, block, *c.latent_size) if c.condition_channels else None
    )
    early, late = (
        model.flow_time(torch.full((1, 1), t, device=model.device)) for t in (999.0, 9.0)
    )
    if kind == 'denoise':
        return denoising(
            video,
            drawn(batch, c.actions_per_block, c.action_dim),
            drawn(batch, c.states_per_block, c.state_dim),
            early,
            late,
            model.block_rotation(cache.frames),
            context,
            cache,
            condition,
        )
    return remembering(
        video, early, model.video_rotation(cache.frames, block), context, cache, condition
    )


@torch.no_grad()
def export(model: VideoActionDiT, kind: str, path: Path) -> None:
    """Write one pass of a model; weights lie beside the graph.

    ValueError for an unknown pass and for 8-bit linears without calibration.

    The graph keeps the model's type, and the 8-bit linears it has, as pairs of quantise and
    dequantise. `denoise` is for a whole block; the number of cached tokens is free.
    """
    if kind not in PASSES:
        raise ValueError(f'pass {kind!r}: want one of {", ".join(PASSES)}')
    if any(isinstance(x, QuantizedLinear) and x.input_scale is None for x in model.modules()):
        raise ValueError(
            'an engine has one input scale per linear, not one per token: calibrate first'
        )
    given, inputs = example(model, kind), names(model.config, kind)
    cached = torch.export.Dim(
        'cached', min=1, max=model.config.window_frames * model.config.frame_tokens
    )
    # one entry for `*flat`: each memory grows along its second axis
    shapes = (
        tuple(
            {1: cached} if name in set(memory_names(model.config, '')) else {} for name in inputs
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter, about itself
        torch.onnx.export(
            Pass(model, kind).eval(),
            given.flat,
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=results(model.config, kind),
            dynamic_shapes=shapes,
            external_data=True,
            verbose=False,
        )
