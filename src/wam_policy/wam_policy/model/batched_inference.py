"""Sample the next block of several sessions in one batch of network passes.

Sessions keep their own caches, texts and positions; what they share is each matrix product with
the weights, which takes little longer for several sessions than for one. The results are those of
single passes but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wam_policy.model.network.kv_cache import BatchedKVCache
from wam_policy.model.network.layers import ContextKV
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler
from wam_policy.model.streaming_session import InferenceContext, PredictionInputs


@torch.inference_mode()
def predict_batch(
    contexts: Sequence[InferenceContext],
    states: Sequence[Any],
    seeds: Sequence[int],
    committed: Sequence[Any],
) -> list[sampler.Sample]:
    """Sample the block that follows the cached frames of each context; caches are unchanged.

    `committed` holds the first actions [n action_dim] of each, None: all are predicted. All
    contexts share one model and one sampler, which is not dynamic; passes run eagerly.
    """
    first = contexts[0]
    inputs = [
        context.prepare_prediction(state, seed, rows)
        for context, state, seed, rows in zip(contexts, states, seeds, committed, strict=True)
    ]
    held = _join_committed(inputs)
    state = torch.cat([one.state for one in inputs])
    conditions = [one.condition for one in inputs if one.condition is not None]
    condition = torch.cat(conditions) if conditions else None
    branches = [
        _make_velocity_fn(first.model, list(branches), state, condition, held)
        for branches in zip(*(context.guidance.branches for context in contexts), strict=True)
    ]
    sample = sampler.sample(
        first.sampling,
        torch.cat([one.video_noise for one in inputs]),
        torch.cat([one.action_noise for one in inputs]),
        first.guidance.combine_branches(branches),
        guided_video=first.guided_video,
        committed=held,
    )
    parts = zip(sample.video.split(1), sample.action.split(1), strict=True)
    return [sampler.Sample(video, action, sample.evaluated) for video, action in parts]


def _join_committed(inputs: Sequence[PredictionInputs]) -> sampler.CommittedActions | None:
    if all(one.committed is None for one in inputs):
        return None
    parts = [
        one.committed or sampler.CommittedActions(torch.zeros_like(one.action_noise), (0,))
        for one in inputs
    ]
    return sampler.CommittedActions(
        torch.cat([part.rows for part in parts]), tuple(part.counts[0] for part in parts)
    )


def _make_velocity_fn(
    model: VideoActionDiT,
    branches: list[Any],
    state: Tensor,
    condition: Tensor | None,
    held: sampler.CommittedActions | None,
) -> sampler.VelocityFn:
    """Return the velocity function of one branch of guidance of all sessions."""
    contexts = [branch.context for branch in branches]
    context = [_concat_context(layers) for layers in zip(*contexts, strict=True)]
    rotations = [branch.block_rotation for branch in branches]
    rotation = Rotation(*(torch.stack(parts) for parts in zip(*rotations, strict=True)))
    cache = BatchedKVCache([branch.cache for branch in branches])
    times, counts = branches[0].position_time_cache, () if held is None else held.counts

    def velocity(
        x_video: Tensor, x_action: Tensor, t_video: int, t_action: int
    ) -> sampler.Velocities:
        return model.denoise(
            x_video,
            x_action,
            state,
            times.flow_time(t_video),
            times.action_time(t_action, counts),
            rotation,
            context,
            cache,
            condition,
        )

    return velocity


def _concat_context(layers: Sequence[ContextKV]) -> ContextKV:
    """Return the context of one layer of all sessions."""
    keys, values, bias = _concat_text(layers)
    images = [one.image for one in layers if one.image is not None]
    image = None
    if images:
        image = torch.cat([one[0] for one in images]), torch.cat([one[1] for one in images])
    return ContextKV((keys, values), image, bias)


def _concat_text(layers: Sequence[ContextKV]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return keys, values and bias; keys that only longer texts have get no weight in others."""
    longest = max(one.text[0].shape[2] for one in layers)
    missing = [longest - one.text[0].shape[2] for one in layers]
    keys, values = (
        torch.cat(
            [
                F.pad(one.text[i], (0, 0, 0, more))
                for one, more in zip(layers, missing, strict=True)
            ]
        )
        for i in range(2)
    )
    if not any(missing) and all(one.text_bias is None for one in layers):
        return keys, values, None
    biases = [
        keys.new_zeros(1, 1, 1, one.text[0].shape[2]) if one.text_bias is None else one.text_bias
        for one in layers
    ]
    padded = [
        F.pad(bias, (0, more), value=-torch.inf)
        for bias, more in zip(biases, missing, strict=True)
    ]
    return keys, values, torch.cat(padded)
