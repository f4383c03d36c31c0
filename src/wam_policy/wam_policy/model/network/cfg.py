"""The branches of guidance: the same model and images, another text, a memory of its own."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from wam_policy.model.execution.engines import Engine
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextMemory
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import CLEAN, FlowTime, VideoActionDiT
from wam_policy.model.sampling import sampler


class Role(Enum):
    """Which branches a process runs."""

    BOTH = 'both'
    COND = 'cond'
    UNCOND = 'uncond'


class Tables:
    """Keep what depends on positions and flow times alone; both come back every query."""

    def __init__(self, model: VideoActionDiT) -> None:
        self._model = model
        self._times: dict[float, FlowTime] = {}
        self._blocks: dict[int, Rotation] = {}
        self._videos: dict[tuple[int, int], Rotation] = {}

    def time(self, t: float) -> FlowTime:
        """Give one object per time: video and actions that share a time share it."""
        if t not in self._times:
            value = torch.tensor([[float(t)]], device=self._model.device)
            self._times[t] = self._model.flow_time(value)
        return self._times[t]

    def block(self, start: int) -> Rotation:
        if start not in self._blocks:
            self._blocks[start] = self._model.block_rotation(start)
        return self._blocks[start]

    def video(self, start: int, frames: int) -> Rotation:
        if (start, frames) not in self._videos:
            self._videos[start, frames] = self._model.video_rotation(start, frames)
        return self._videos[start, frames]


class Branch:
    """One text's view of the episode."""

    def __init__(self, model: VideoActionDiT, engine: Engine, tables: Tables) -> None:
        self._model, self._engine = model, engine
        self._tables = tables
        self._context: list[ContextMemory] = []
        self.cache = KVCache(model.config, 1, model.device, model.dtype)

    def begin(self, text: Tensor) -> None:
        """Read another text [1 text_len text_dim] and forget everything seen."""
        self._context = self._model.text_context(text)
        self.cache.truncate(0)

    def look(self, image: Tensor) -> None:
        """Read image tokens [1 tokens image_dim] beside the text."""
        self._context = self._model.looking_at(image, self._context)

    def remember(self, latents: Tensor, condition: Tensor | None) -> None:
        """Write clean latents [1 channels frames rows columns] behind the memory."""
        frames = latents.shape[2]
        rotation = self._tables.video(self.cache.frames, frames)
        clean = self._tables.time(CLEAN)
        self._engine.remember(latents, clean, rotation, self._context, self.cache, condition)

    def velocity(self, state: Tensor, condition: Tensor | None) -> sampler.Branch:
        """Give the velocity function of the block that follows the memory."""
        rotation = self._tables.block(self.cache.frames)
        tables, engine, context, cache = self._tables, self._engine, self._context, self.cache

        def of(
            x_video: Tensor, x_action: Tensor, t_video: int, t_action: int
        ) -> sampler.Velocities:
            return engine.denoise(
                x_video,
                x_action,
                state,
                tables.time(t_video),
                tables.time(t_action),
                rotation,
                context,
                cache,
                condition,
            )

        return of


class Guidance:
    """The branches that run here, as one."""

    def __init__(
        self,
        model: VideoActionDiT,
        recipe: sampler.Recipe,
        *,
        role: Role,
        exchange: sampler.Exchange | None,
        guided_video: bool,
        engine: Engine | None = None,
    ) -> None:
        wanted = recipe.guides_actions() or (guided_video and recipe.guidance != 1)
        if wanted and role is not Role.BOTH and exchange is None:
            raise ValueError('one branch of two wants a peer to exchange velocities with')
        if role is Role.UNCOND and not wanted:
            raise ValueError('this recipe never reads the unconditional branch: do not start it')
        self.role = role
        self._recipe = recipe
        self._exchange = exchange if wanted else None
        tables = Tables(model)
        count = 2 if role is Role.BOTH and wanted else 1
        self.branches = [Branch(model, engine or model, tables) for _ in range(count)]

    @property
    def frames(self) -> int:
        """Count the latent frames in memory."""
        return self.branches[0].cache.frames

    @property
    def reads_negative(self) -> bool:
        """Tell whether the negative text is read at all."""
        return self.role is Role.UNCOND or len(self.branches) > 1

    def begin(self, text: Tensor, negative: Tensor | None) -> None:
        texts = [negative] if self.role is Role.UNCOND else [text, negative]
        for branch, own in zip(self.branches, texts, strict=False):
            if own is None:
                raise ValueError('the unconditional branch wants its text')
            branch.begin(own)

    def look(self, image: Tensor) -> None:
        for branch in self.branches:
            branch.look(image)

    def forget(self) -> None:
        """Empty the memories; texts stay."""
        for branch in self.branches:
            branch.cache.truncate(0)

    def commit(self, latents: Tensor, condition: Tensor | None) -> None:
        """Remember real latents for good."""
        for branch in self.branches:
            branch.remember(latents, condition)
            branch.cache.commit(latents.shape[2])

    def commit_tentatively(self, latents: Tensor, condition: Tensor | None) -> None:
        """Remember real latents until `truncate`; nothing older is dropped for them."""
        for branch in self.branches:
            branch.remember(latents, condition)
            branch.cache.extend(latents.shape[2])

    def truncate(self, frames: int) -> None:
        for branch in self.branches:
            branch.cache.truncate(frames)

    def slide(self, frames: int) -> None:
        for branch in self.branches:
            branch.cache.slide(frames)

    def velocity(self, state: Tensor, condition: Tensor | None) -> sampler.GuidedVelocity:
        """Give the guided velocity of the block that follows the memory."""
        own, *other = [branch.velocity(state, condition) for branch in self.branches]
        scale = self._recipe.guidance
        if other:
            return sampler.guided(own, other[0], scale)
        if self._exchange is None:
            return sampler.unguided(own)
        conditional = self.role is not Role.UNCOND
        return sampler.exchanged(own, self._exchange, scale, conditional=conditional)
