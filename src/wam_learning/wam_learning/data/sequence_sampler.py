"""Sample windows of episodes as batches of tensors: images, states, actions, labels.

A window starts with a single image and continues in whole blocks. Live queries also occur within
a block, between two commits: then all states and actions of the window are `shift` rows later
than its images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from wam_learning.data import normalization
from wam_learning.data.episode_arrays import EpisodeArrays
from wam_learning.data.visual_inputs import VisualBatch, VisualInputs
from wam_learning.training.grounding_loss import GroundingTargets
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.normalizer import Normalizer

EPISODE_START_PROB = 0.25  # of windows that start with their episode
MEMORY_START_FACTOR = 1.2  # times the fraction of memory episodes, for windows with a memory
UNSHIFTED_PROB = 0.5
COMMITTED_PROB = 0.5  # of blocks that begin with committed rows, where a training has them
MEMORY_GONE_BLOCKS = 3  # a window that starts within these misses the shown goal
MEMORY_FAMILIES = ('recall',)  # whose goal is shown only at the start


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Hold windows with the same number of blocks, on the training device.

    Masks are True where a loss applies. Without a label `patch_target` is 0 and `place` NaN.
    """

    texts: tuple[str, ...]
    visual: VisualBatch
    future_mask: Tensor  # bool [batch blocks]
    state: Tensor  # [batch blocks state_dim]
    action: Tensor  # [batch blocks actions action_dim]
    action_mask: Tensor  # bool [batch blocks actions]
    committed: Tensor  # bool [batch blocks actions], first rows that the model gets clean
    patch_target: Tensor  # [batch blocks frame_tokens], of the image before each block
    place: Tensor  # [batch blocks 2], standardized
    families: tuple[str, ...]

    @property
    def blocks(self) -> int:
        return self.state.shape[1]

    def to(self, device: torch.device) -> 'Batch':
        if device.type == 'cpu':
            return self
        condition, image = (
            x if x is None else x.to(device) for x in (self.visual.condition, self.visual.image)
        )
        seen = VisualBatch(
            self.visual.clean.to(device), self.visual.future.to(device), condition, image
        )
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, visual=seen, **moved)


@dataclass(frozen=True, slots=True)
class QueryDelays:
    """Simulate the delay of an answer, in rows of a chunk; 0: as without delay.

    `committed`: the first rows of a block are executed until the answer arrives, so they are
    given clean and have no loss (training-time real-time chunking, arXiv 2512.05964). `late`: how
    many rows more than a block the joint positions may be newer than the images.
    """

    committed: int = 0
    late: int = 0

    def sample_committed(
        self, count: int, blocks: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Return numbers of committed rows [count blocks], uniform from 1 on or 0; None: all 0."""
        if not self.committed:
            return None
        rows = rng.integers(1, self.committed + 1, (count, blocks))
        return np.where(rng.random((count, blocks)) < COMMITTED_PROB, rows, 0)


NO_DELAYS = QueryDelays()


class SequenceSampler:
    """Sample batches from episode arrays."""

    def __init__(
        self,
        data: EpisodeArrays,
        visual_inputs: VisualInputs,
        normalizer: Normalizer,
        config: ModelConfig,
        grounding_targets: GroundingTargets,
        delays: QueryDelays = NO_DELAYS,
    ) -> None:
        if delays.committed >= config.actions_per_block or min(delays.committed, delays.late) < 0:
            raise ValueError(
                f'{delays.committed} committed and {delays.late} late rows: want 0 to '
                f'{config.actions_per_block - 1} committed and 0 or more late rows'
            )
        if config.states_per_block != 1:
            raise ValueError(
                f'states_per_block {config.states_per_block}: windows have one state per block'
            )
        self.data, self.visual_inputs, self.normalizer = data, visual_inputs, normalizer
        self.config, self.grounding_targets = config, grounding_targets
        self.delays = delays
        self._normalized_states = normalization.normalize_states(
            normalizer, data.robot, data.state
        )
        self._episode_of_frame = np.concatenate(
            [np.full(span.frame_count, i) for i, span in enumerate(data.episodes)]
        )
        self._frame_in_episode = np.concatenate(
            [np.arange(span.frame_count) for span in data.episodes]
        )
        first = np.array([span.first_row for span in data.episodes])
        self._first_row = first[self._episode_of_frame]
        self._last_row = (
            self._first_row
            + np.array([span.row_count for span in data.episodes])[self._episode_of_frame]
            - 1
        )
        self._first_frame = np.array([span.first_frame for span in data.episodes])[
            self._episode_of_frame
        ]
        self._episode_frame_count = np.array([span.frame_count for span in data.episodes])[
            self._episode_of_frame
        ]
        remembers = np.array([span.family in MEMORY_FAMILIES for span in data.episodes])[
            self._episode_of_frame
        ]
        self._goal_unknown = remembers & (self._frame_in_episode == 0)
        gone = MEMORY_GONE_BLOCKS * config.block_pixel_frames
        # waiting arms look the same whatever the goal: such rows would teach an average
        self._ambiguous = (
            remembers & (self._frame_in_episode > 0) & (self._frame_in_episode < gone)
        )
        self._valid_starts = {
            n: self._find_valid_starts(n) for n in range(1, config.window_blocks + 1)
        }
        self._episode_starts = {
            n: found[self._frame_in_episode[found] == 0] for n, found in self._valid_starts.items()
        }
        self._memory_starts = {
            n: found[remembers[found]] for n, found in self._episode_starts.items()
        }
        self._memory_fraction = float(remembers.mean())
        if not len(self._valid_starts[1]):
            raise ValueError('no window of the data set has a supervised row to learn from')

    def _find_valid_starts(self, blocks: int) -> np.ndarray:
        """Return the images at which windows may start: one text, and a supervised last block.

        In memory families they start with the episode, as live sessions do, or so late that the
        hand already moves to the goal.
        """
        c, stride = self.config, self.data.frame_stride
        begin = self._first_row + stride * self._frame_in_episode
        last = begin + (blocks - 1) * c.actions_per_block
        inside = last <= self._last_row
        end = np.minimum(last + c.actions_per_block - 1, self._last_row)
        last = np.minimum(last, self._last_row)
        same = self.data.task[begin] == self.data.task[end]
        return np.flatnonzero(inside & same & self.data.supervised[last] & ~self._ambiguous)

    def block_counts(self) -> list[int]:
        """Return the numbers of blocks for which the episodes are long enough."""
        return [n for n, found in self._valid_starts.items() if len(found)]

    def valid_starts(self, blocks: int) -> frozenset[int]:
        """Return the images at which windows of `blocks` blocks may start."""
        return frozenset(self._valid_starts[blocks].tolist())

    def sample(self, count: int, blocks: int, rng: np.random.Generator) -> Batch:
        """Return `count` random windows of `blocks` blocks."""
        anywhere, starting = self._valid_starts[blocks], self._episode_starts[blocks]
        memory_starts = self._memory_starts[blocks]
        chosen = rng.choice(anywhere, count)
        rolls = rng.random(count)
        # a window of one block has no memory
        share = self._memory_fraction * (0.0 if blocks == 1 else MEMORY_START_FACTOR)
        for i in np.flatnonzero(rolls < EPISODE_START_PROB + share):
            pool = memory_starts if rolls[i] < share and len(memory_starts) else starting
            if len(pool):
                chosen[i] = rng.choice(pool)
        late = rng.integers(0, self.config.actions_per_block + self.delays.late, count)
        shift = np.where(rng.random(count) < UNSHIFTED_PROB, 0, late)
        committed = self.delays.sample_committed(count, blocks, rng)
        return self.build_batch(chosen, blocks, shift, committed)

    def build_batch(
        self,
        frames: Sequence[int] | np.ndarray,
        blocks: int,
        shift: np.ndarray,
        committed_rows: np.ndarray | None = None,
    ) -> Batch:
        """Return the windows that start at images `frames`, with shifts in rows.

        `committed_rows` [batch blocks] is the number of rows that are given, None: none are.
        """
        frames, data, c = np.asarray(frames), self.data, self.config
        horizon = c.actions_per_block
        last_row = self._last_row[frames][:, None]
        begin = (self._first_row + data.frame_stride * self._frame_in_episode)[frames][:, None]
        image_row = np.minimum(begin + horizon * np.arange(blocks), last_row)  # [batch blocks]
        query = np.minimum(image_row + shift[:, None], last_row)
        rows = query[..., None] + np.arange(horizon)
        past = np.minimum(rows, last_row[..., None])
        reference = data.state[query][:, :, None]
        action = normalization.normalize_actions(
            self.normalizer, data.robot, data.action[past], reference
        )
        task = data.task[begin]
        if committed_rows is None:
            committed_rows = np.zeros_like(query)
        committed = np.arange(horizon) < committed_rows[..., None]
        # what is executed anyway need not be the expert's
        continued = (data.supervised[past] | committed) & (data.task[past] == task[..., None])
        mask = np.logical_and.accumulate(continued, axis=2) & ~committed
        # before the goal is shown, the heads could only memorize scenes
        known = ~self._goal_unknown[frames, None] | (np.arange(blocks) > 0)
        pixel = np.where(known[..., None], data.pixel[image_row], np.nan)
        place = np.where(known[..., None], data.place[query], np.nan)
        return Batch(
            texts=tuple(data.texts[i] for i in task[:, 0]),
            visual=self.visual_inputs.encode_windows(self._find_frame_indices(frames, blocks)),
            future_mask=torch.from_numpy(
                self._compute_future_mask(frames, blocks, image_row, task)
            ),
            state=torch.from_numpy(self._normalized_states[query]),
            action=torch.from_numpy(action),
            action_mask=torch.from_numpy(mask),
            committed=torch.from_numpy(committed),
            patch_target=torch.from_numpy(self.grounding_targets.patch_targets(pixel)),
            place=torch.from_numpy(self.grounding_targets.standardize(place)),
            families=tuple(data.episodes[i].family for i in self._episode_of_frame[frames]),
        )

    def _find_frame_indices(self, frames: np.ndarray, blocks: int) -> np.ndarray:
        """Return the image indices of windows, clamped to their episodes: [batch images]."""
        last = (self._first_frame + self._episode_frame_count - 1)[frames]
        start = (self._first_frame + self._frame_in_episode)[frames]
        ahead = np.arange(1 + blocks * self.config.block_pixel_frames)
        return np.minimum(start[:, None] + ahead, last[:, None])

    def _compute_future_mask(
        self, frames: np.ndarray, blocks: int, frame_row: np.ndarray, task: np.ndarray
    ) -> np.ndarray:
        """Return for which blocks [batch blocks] the images show only supervised motion."""
        c, data = self.config, self.data
        rows = frame_row[..., None] + np.arange(c.actions_per_block)
        inside = (rows <= self._last_row[frames][:, None, None]).all(2)
        rows = np.minimum(rows, self._last_row[frames][:, None, None])
        own = data.supervised[rows] & (data.task[rows] == task[..., None])
        return inside & own.all(2)
