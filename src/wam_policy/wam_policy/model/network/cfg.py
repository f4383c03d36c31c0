"""Run the branches of classifier-free guidance: one model, one text and KV cache per branch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from wam_policy.model.execution.engines import ExecutionEngine
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextKV
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import CLEAN_TIME, FlowTimeEmbedding, VideoActionDiT
from wam_policy.model.sampling import sampler


class CfgRole(Enum):
    """Name the branches that a process runs."""

    BOTH = 'both'
    COND = 'cond'
    UNCOND = 'uncond'


class PositionTimeCache:
    """Cache what depends on positions and flow times only; both recur with every query."""

    def __init__(self, model: VideoActionDiT) -> None:
        self._model = model
        self._times: dict[float, FlowTimeEmbedding] = {}
        self._blocks: dict[int, Rotation] = {}
        self._videos: dict[tuple[int, int], Rotation] = {}

    def flow_time(self, t: float) -> FlowTimeEmbedding:
        """Return one object per time, shared by video and actions at the same time."""
        if t not in self._times:
            value = torch.full((1, 1), float(t), device=self._model.device)
            self._times[t] = self._model.embed_flow_time(value)
        return self._times[t]

    def action_time(self, t: float, committed: tuple[int, ...]) -> FlowTimeEmbedding:
        """Return the times of all actions, of which the first `committed` of a sample are clean.

        The object is that of `flow_time` if none of the samples has any.
        """
        noisy = self.flow_time(t)
        if not any(committed):
            return noisy
        clean, count = self.flow_time(CLEAN_TIME), self._model.config.actions_per_block
        samples = [
            [
                torch.cat(
                    [first.expand(-1, rows, *rest), later.expand(-1, count - rows, *rest)], 1
                )
                for first, later in zip(clean, noisy, strict=True)
                for rest in [[-1] * (first.ndim - 2)]
            ]
            for rows in committed
        ]
        return FlowTimeEmbedding(*(torch.cat(parts) for parts in zip(*samples, strict=True)))

    def block_rotation(self, start: int) -> Rotation:
        if start not in self._blocks:
            self._blocks[start] = self._model.compute_block_rotation(start)
        return self._blocks[start]

    def video_rotation(self, start: int, frames: int) -> Rotation:
        if (start, frames) not in self._videos:
            self._videos[start, frames] = self._model.compute_video_rotation(start, frames)
        return self._videos[start, frames]


class CfgBranch:
    """Hold the context and the KV cache of one text."""

    def __init__(
        self,
        model: VideoActionDiT,
        engine: ExecutionEngine,
        position_time_cache: PositionTimeCache,
    ) -> None:
        self._model, self._engine = model, engine
        self._position_time_cache = position_time_cache
        self._context: list[ContextKV] = []
        self.cache = KVCache(model.config, 1, model.device, model.dtype)

    def set_text(self, text: Tensor) -> None:
        """Set another text [1 text_len text_dim] and clear the cache."""
        self._context = self._model.embed_text(text)
        self.cache.truncate(0)

    def set_image(self, image: Tensor) -> None:
        """Set image tokens [1 tokens image_dim] beside the text."""
        self._context = self._model.with_image(image, self._context)

    def append_kv(self, latents: Tensor, condition: Tensor | None) -> None:
        """Append keys and values of clean latents [1 channels frames rows columns]."""
        frames = latents.shape[2]
        rotation = self._position_time_cache.video_rotation(self.cache.frames, frames)
        clean = self._position_time_cache.flow_time(CLEAN_TIME)
        self._engine.append_kv(latents, clean, rotation, self._context, self.cache, condition)

    @property
    def context(self) -> list[ContextKV]:
        """Return keys and values of text and image, per layer."""
        return self._context

    @property
    def block_rotation(self) -> Rotation:
        """Return the rotation of the block that follows the cached frames."""
        return self._position_time_cache.block_rotation(self.cache.frames)

    @property
    def position_time_cache(self) -> PositionTimeCache:
        return self._position_time_cache

    def make_velocity_fn(
        self, state: Tensor, condition: Tensor | None, committed: int = 0
    ) -> sampler.VelocityFn:
        """Return the velocity function of the block that follows the cached frames.

        Its first `committed` actions are clean.
        """
        rotation = self.block_rotation
        tables = self._position_time_cache
        engine = self._engine
        context = self._context
        cache = self.cache

        def of(
            x_video: Tensor, x_action: Tensor, t_video: int, t_action: int
        ) -> sampler.Velocities:
            return engine.denoise(
                x_video,
                x_action,
                state,
                tables.flow_time(t_video),
                tables.action_time(t_action, (committed,)),
                rotation,
                context,
                cache,
                condition,
            )

        return of


class ClassifierFreeGuidance:
    """Run the branches of this process as one velocity function."""

    def __init__(
        self,
        model: VideoActionDiT,
        sampling: sampler.SamplingConfig,
        *,
        role: CfgRole,
        exchange: sampler.ExchangeFn | None,
        guided_video: bool,
        engine: ExecutionEngine | None = None,
    ) -> None:
        wanted = sampling.guides_actions() or (guided_video and sampling.guidance != 1)
        if wanted and role is not CfgRole.BOTH and exchange is None:
            raise ValueError('one branch of two needs a peer to exchange velocities with')
        if role is CfgRole.UNCOND and not wanted:
            raise ValueError('this sampler never reads the unconditional branch: do not start it')
        self.role = role
        self._sampling = sampling
        self._exchange = exchange if wanted else None
        tables = PositionTimeCache(model)
        count = 2 if role is CfgRole.BOTH and wanted else 1
        self.branches = [CfgBranch(model, engine or model, tables) for _ in range(count)]

    @property
    def frames(self) -> int:
        """Count the cached latent frames."""
        return self.branches[0].cache.frames

    @property
    def uses_negative_text(self) -> bool:
        """Return whether any branch here uses the negative text."""
        return self.role is CfgRole.UNCOND or len(self.branches) > 1

    def set_text(self, text: Tensor, negative: Tensor | None) -> None:
        texts = [negative] if self.role is CfgRole.UNCOND else [text, negative]
        for branch, own in zip(self.branches, texts, strict=False):
            if own is None:
                raise ValueError('the unconditional branch needs its text')
            branch.set_text(own)

    def set_image(self, image: Tensor) -> None:
        for branch in self.branches:
            branch.set_image(image)

    def clear_cache(self) -> None:
        """Clear the caches; texts stay."""
        for branch in self.branches:
            branch.cache.truncate(0)

    def commit(self, latents: Tensor, condition: Tensor | None) -> None:
        """Append real latents permanently."""
        for branch in self.branches:
            branch.append_kv(latents, condition)
            branch.cache.commit(latents.shape[2])

    def commit_temporary(self, latents: Tensor, condition: Tensor | None) -> None:
        """Append real latents until `truncate`; nothing older is evicted for them."""
        for branch in self.branches:
            branch.append_kv(latents, condition)
            branch.cache.commit_temporary(latents.shape[2])

    def truncate(self, frames: int) -> None:
        for branch in self.branches:
            branch.cache.truncate(frames)

    def slide(self, frames: int) -> None:
        for branch in self.branches:
            branch.cache.slide(frames)

    def make_velocity_fn(
        self, state: Tensor, condition: Tensor | None, committed: int = 0
    ) -> sampler.GuidedVelocityFn:
        """Return the guided velocity function of the block that follows the cached frames."""
        return self.combine_branches(
            [branch.make_velocity_fn(state, condition, committed) for branch in self.branches]
        )

    def combine_branches(self, branches: Sequence[sampler.VelocityFn]) -> sampler.GuidedVelocityFn:
        """Return the guided velocity function of the branches' own, in the order of `branches`."""
        own, *other = branches
        scale = self._sampling.guidance
        if other:
            return sampler.make_guided_velocity_fn(own, other[0], scale)
        if self._exchange is None:
            return sampler.make_unguided_velocity_fn(own)
        conditional = self.role is not CfgRole.UNCOND
        return sampler.make_exchanged_velocity_fn(
            own, self._exchange, scale, conditional=conditional
        )
