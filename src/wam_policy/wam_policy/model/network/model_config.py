"""Define the sizes of a model: of its weights, its KV cache and its time base.

A config has no defaults, so that every size is stated. `PRESETS` holds the named ones; a
checkpoint states its own in JSON.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

WINDOW_MODES = ('restart', 'slide')  # what a full cache does


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Describe one video-action transformer and the time base it was trained on."""

    # transformer
    dim: int
    heads: int
    layers: int
    ffn_dim: int
    freq_dim: int  # width of the sinusoid under the flow-time embedding
    eps: float  # of every norm inside the blocks
    # video
    latent_channels: int
    latent_size: tuple[int, int]  # rows, columns of one latent frame
    patch: int  # latent pixels per token side
    learned_places: bool  # vectors per patch and action row beside the rotation
    condition_channels: int  # mask + image latent concatenated to the input; 0: none
    # context
    text_dim: int
    text_len: int
    image_context: bool  # cross-attention to image tokens beside the text
    image_dim: int
    # action register
    action_dim: int
    state_dim: int
    action_hidden: int
    # one block: what one query predicts and one commit appends
    frames_per_block: int  # latent frames
    actions_per_block: int
    states_per_block: int
    window_blocks: int  # cached and predicted blocks after the first frame
    masked_state: bool  # in training the state token attends to itself only
    predicts_video: bool  # False: a block has actions and states only (a baseline)
    # time base
    pixel_frames_per_latent: int
    video_hz: float  # pixel frames
    action_hz: float

    def __post_init__(self) -> None:
        rows, columns = self.latent_size
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f'dim {self.dim} does not split into {self.heads} even heads')
        if rows % self.patch or columns % self.patch:
            raise ValueError(
                f'latent_size {self.latent_size}: not a multiple of patch {self.patch}'
            )
        if self.actions_per_block % self.states_per_block:
            raise ValueError(
                f'actions_per_block {self.actions_per_block} is not a multiple of '
                f'states_per_block {self.states_per_block}'
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """Count token rows and columns of one latent frame."""
        return self.latent_size[0] // self.patch, self.latent_size[1] // self.patch

    @property
    def frame_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def register_tokens(self) -> int:
        """Count the action and state tokens of one block."""
        return self.actions_per_block + self.states_per_block

    @property
    def window_frames(self) -> int:
        """Count the latent frames of the attention window, the newest included."""
        return 1 + self.window_blocks * self.frames_per_block

    @property
    def block_pixel_frames(self) -> int:
        """Count the pixel frames that one commit takes."""
        return self.frames_per_block * self.pixel_frames_per_latent

    @property
    def window_pixel_frames(self) -> int:
        """Count the pixel frames of a whole window; the image condition is a clip that long."""
        return 1 + self.window_blocks * self.block_pixel_frames

    @property
    def block_period_s(self) -> float:
        """Return the duration of one block of real frames."""
        return self.block_pixel_frames / self.video_hz

    def block_index(self, start_frame: int) -> int:
        """Return the index in the window of the block that begins at `start_frame`."""
        return (start_frame - 1) // self.frames_per_block

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return {**asdict(self), 'latent_size': list(self.latent_size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read what `to_dict` wrote; ValueError names missing and unknown keys."""
        values = {**_LEGACY_DEFAULTS, **values}
        known = {field.name for field in fields(cls)}
        missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
        if missing or unknown:
            raise ValueError(f'model config: missing {missing}, unknown {unknown}')
        return cls(**{**values, 'latent_size': tuple(values['latent_size'])})


# Values of keys that older files lack.
_LEGACY_DEFAULTS = {'learned_places': False, 'predicts_video': True}


def get_preset(name: str) -> ModelConfig:
    """Look up a named config; ValueError lists the known ones."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f'; did you mean {near[0]}?' if near else ''
        raise ValueError(f'no model preset {name!r}, known: {", ".join(PRESETS)}{hint}')
    return PRESETS[name]


# Sizes of the 14B and 5B models are those of the DreamZero release (arXiv 2602.15922): 352x640 and
# 160x320 canvases, 2 latent frames = 8 pixel frames per block. The DROID release has 24 actions
# in 1.6 s.
_DREAMZERO = {
    'freq_dim': 256,
    'eps': 1e-6,
    'patch': 2,
    'learned_places': False,
    'text_dim': 4096,
    'text_len': 512,
    'image_context': True,
    'image_dim': 1280,
    'action_dim': 32,
    'state_dim': 64,
    'action_hidden': 1024,
    'frames_per_block': 2,
    'actions_per_block': 24,
    'states_per_block': 1,
    'window_blocks': 4,
    'masked_state': True,
    'predicts_video': True,
    'pixel_frames_per_latent': 4,
    'video_hz': 5.0,
    'action_hz': 15.0,
}

# 64x96 canvas; per block one latent frame (4 pixel frames at 5 Hz = 0.8 s), 24 actions at 30 Hz.
_SMALL = {
    'dim': 128,
    'heads': 4,
    'layers': 4,
    'ffn_dim': 512,
    'freq_dim': 64,
    'eps': 1e-6,
    'latent_channels': 8,
    'latent_size': (8, 12),
    'patch': 2,
    'learned_places': False,
    'condition_channels': 0,
    'text_dim': 128,
    'text_len': 52,
    'image_context': False,
    'image_dim': 0,
    'action_dim': 32,
    'state_dim': 64,
    'action_hidden': 128,
    'frames_per_block': 1,
    'actions_per_block': 24,
    'states_per_block': 1,
    'window_blocks': 4,
    'masked_state': False,
    'predicts_video': True,
    'pixel_frames_per_latent': 4,
    'video_hz': 5.0,
    'action_hz': 30.0,
}

PRESETS = {
    'dreamzero_14b': ModelConfig(
        dim=5120,
        heads=40,
        layers=40,
        ffn_dim=13824,
        latent_channels=16,
        latent_size=(44, 80),
        condition_channels=20,
        **_DREAMZERO,
    ),
    'dreamzero_5b': ModelConfig(
        dim=3072,
        heads=24,
        layers=30,
        ffn_dim=14336,
        latent_channels=48,
        latent_size=(10, 20),
        condition_channels=0,
        **_DREAMZERO,
    ),
    # room for the longest instruction and for the values of our robots
    'mini': ModelConfig(
        **{**_SMALL, 'learned_places': True, 'text_len': 64, 'action_dim': 24, 'state_dim': 24}
    ),
    'tiny': ModelConfig(**_SMALL),
}
