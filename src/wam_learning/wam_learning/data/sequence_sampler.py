"""Draw windows of clips: what the model saw, knew and should have done, as a batch of tensors.

A window begins at any picture with that picture by itself and goes on in whole blocks. Queries may
come in the middle of a block: then all of the window's postures and targets are `shift` rows late
while its pictures are not, as it happens live between two commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from wam_learning.data import normalization
from wam_learning.data.episode_arrays import Clips
from wam_learning.data.visual_inputs import Pictures, Seen
from wam_learning.training.grounding_loss import Places
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.normalizer import Normaliser

START_SHARE = 0.25  # of windows that begin with their episode
MEMORY_START_SHARE = 1.2  # of what memories have of all episodes, in windows that remember
UNSHIFTED_SHARE = 0.5
MEMORY_GONE_BLOCKS = 3  # a window that begins no later has missed what it should remember
MEMORY = ('recall',)  # families whose goal is shown at the start only


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Hold windows of equally many blocks, on the training device.

    Masks are True where a loss applies. `target_share` is 0 and `place` NaN without a label.
    """

    texts: tuple[str, ...]
    seen: Seen
    future_mask: Tensor  # bool [batch blocks]
    state: Tensor  # [batch blocks state_dim]
    action: Tensor  # [batch blocks actions action_dim]
    action_mask: Tensor  # bool [batch blocks actions]
    target_share: Tensor  # [batch blocks frame_tokens], of the picture before each block
    place: Tensor  # [batch blocks 2], standardised
    families: tuple[str, ...]

    @property
    def blocks(self) -> int:
        return self.state.shape[1]

    def to(self, device: torch.device) -> 'Batch':
        """Give the same windows on a device."""
        if device.type == 'cpu':
            return self
        condition, image = (
            x if x is None else x.to(device) for x in (self.seen.condition, self.seen.image)
        )
        seen = Seen(self.seen.clean.to(device), self.seen.future.to(device), condition, image)
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, seen=seen, **moved)


class Windows:
    """Draw batches from clips."""

    def __init__(
        self,
        clips: Clips,
        pictures: Pictures,
        normaliser: Normaliser,
        config: ModelConfig,
        places: Places,
    ) -> None:
        if config.states_per_block != 1:
            raise ValueError(
                f'states_per_block {config.states_per_block}: windows know one posture per block'
            )
        self.clips, self.pictures, self.normaliser = clips, pictures, normaliser
        self.config, self.places = config, places
        self._states = normalization.states(normaliser, clips.state)
        self._episode = np.concatenate(
            [np.full(span.frames, i) for i, span in enumerate(clips.spans)]
        )
        self._frame = np.concatenate([np.arange(span.frames) for span in clips.spans])
        first = np.array([span.row for span in clips.spans])
        self._first_row = first[self._episode]
        self._last_row = (
            self._first_row + np.array([span.rows for span in clips.spans])[self._episode] - 1
        )
        self._first_frame = np.array([span.frame for span in clips.spans])[self._episode]
        self._frames = np.array([span.frames for span in clips.spans])[self._episode]
        remembers = np.array([span.family in MEMORY for span in clips.spans])[self._episode]
        self._unknown = remembers & (self._frame == 0)
        gone = MEMORY_GONE_BLOCKS * config.block_pixel_frames
        # arms that wait look like arms about to go to one cube or another: no lesson in either
        self._clueless = remembers & (self._frame > 0) & (self._frame < gone)
        self._allowed = {n: self._beginnings(n) for n in range(1, config.window_blocks + 1)}
        self._starting = {n: found[self._frame[found] == 0] for n, found in self._allowed.items()}
        self._memories = {n: found[remembers[found]] for n, found in self._starting.items()}
        self._memory_share = float(remembers.mean())
        if not len(self._allowed[1]):
            raise ValueError('no window of the data set has a supervised row to learn from')

    def _beginnings(self, blocks: int) -> np.ndarray:
        """Find pictures at which windows may begin: one text, and a last block to learn from.

        In families that remember they begin with the episode, as memories do live, or so late
        that the hand is on its way.
        """
        c, stride = self.config, self.clips.stride
        begin = self._first_row + stride * self._frame
        last = begin + (blocks - 1) * c.actions_per_block
        inside = last <= self._last_row
        end = np.minimum(last + c.actions_per_block - 1, self._last_row)
        last = np.minimum(last, self._last_row)
        same = self.clips.task[begin] == self.clips.task[end]
        return np.flatnonzero(inside & same & self.clips.supervised[last] & ~self._clueless)

    def lengths(self) -> list[int]:
        """Tell which numbers of blocks the episodes are long enough for."""
        return [n for n, found in self._allowed.items() if len(found)]

    def beginnings(self, blocks: int) -> frozenset[int]:
        """Give the pictures at which windows of so many blocks may begin."""
        return frozenset(self._allowed[blocks].tolist())

    def drawn(self, count: int, blocks: int, rng: np.random.Generator) -> Batch:
        """Draw `count` windows of `blocks` blocks."""
        anywhere, starting = self._allowed[blocks], self._starting[blocks]
        memories = self._memories[blocks]
        chosen = rng.choice(anywhere, count)
        dice = rng.random(count)
        # a window of one block has nothing to remember
        share = self._memory_share * (0.0 if blocks == 1 else MEMORY_START_SHARE)
        for i in np.flatnonzero(dice < START_SHARE + share):
            pool = memories if dice[i] < share and len(memories) else starting
            if len(pool):
                chosen[i] = rng.choice(pool)
        late = rng.integers(0, self.config.actions_per_block, count)
        shift = np.where(rng.random(count) < UNSHIFTED_SHARE, 0, late)
        return self.at(chosen, blocks, shift)

    def at(self, frames: Sequence[int] | np.ndarray, blocks: int, shift: np.ndarray) -> Batch:
        """Build the windows that begin at given pictures with given shifts in rows."""
        frames, clips, c = np.asarray(frames), self.clips, self.config
        horizon = c.actions_per_block
        last_row = self._last_row[frames][:, None]
        begin = (self._first_row + clips.stride * self._frame)[frames][:, None]
        at_picture = np.minimum(begin + horizon * np.arange(blocks), last_row)  # [batch blocks]
        query = np.minimum(at_picture + shift[:, None], last_row)
        rows = query[..., None] + np.arange(horizon)
        past = np.minimum(rows, last_row[..., None])
        reference = clips.state[query][:, :, None]
        action = normalization.actions(self.normaliser, clips.robot, clips.action[past], reference)
        task = clips.task[begin]
        expert = clips.supervised[past] & (clips.task[past] == task[..., None])
        mask = np.logical_and.accumulate(expert, axis=2)
        # asked before anybody can know, heads would learn scenes by heart
        known = ~self._unknown[frames, None] | (np.arange(blocks) > 0)
        pixel = np.where(known[..., None], clips.pixel[at_picture], np.nan)
        place = np.where(known[..., None], clips.place[query], np.nan)
        return Batch(
            texts=tuple(clips.texts[i] for i in task[:, 0]),
            seen=self.pictures.seen(self._numbers(frames, blocks)),
            future_mask=torch.from_numpy(self._followed(frames, blocks, at_picture, task)),
            state=torch.from_numpy(self._states[query]),
            action=torch.from_numpy(action),
            action_mask=torch.from_numpy(mask),
            target_share=torch.from_numpy(self.places.shares(pixel)),
            place=torch.from_numpy(self.places.standardised(place)),
            families=tuple(clips.spans[i].family for i in self._episode[frames]),
        )

    def _numbers(self, frames: np.ndarray, blocks: int) -> np.ndarray:
        """Number the pictures of windows, cut to their episodes: [batch pictures]."""
        last = (self._first_frame + self._frames - 1)[frames]
        start = (self._first_frame + self._frame)[frames]
        ahead = np.arange(1 + blocks * self.config.block_pixel_frames)
        return np.minimum(start[:, None] + ahead, last[:, None])

    def _followed(
        self, frames: np.ndarray, blocks: int, at_picture: np.ndarray, task: np.ndarray
    ) -> np.ndarray:
        """Tell in which blocks [batch blocks] the pictures show what the expert did."""
        c, clips = self.config, self.clips
        rows = at_picture[..., None] + np.arange(c.actions_per_block)
        inside = (rows <= self._last_row[frames][:, None, None]).all(2)
        rows = np.minimum(rows, self._last_row[frames][:, None, None])
        own = clips.supervised[rows] & (clips.task[rows] == task[..., None])
        return inside & own.all(2)
