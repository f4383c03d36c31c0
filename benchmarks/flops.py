"""What a pass costs on paper: floating-point operations, two per multiply and add.

`mine` is what our passes compute. The released code also recomputes the context's keys and values
and every token's flow time in every pass; `released` adds them.
"""

from dataclasses import dataclass

from wam_policy.model.network.model_config import ModelConfig

IMAGE_TOKENS = 257  # of the released image encoder


@dataclass(frozen=True, slots=True)
class Flops:
    """Split one pass of one branch."""

    linears: float  # of the blocks, but for the context's keys and values
    self_attention: float
    cross_attention: float
    ends: float  # patch embedding, head, action and state register
    context: float  # keys and values of the context, once per instruction
    times: float  # flow time of every token; one per distinct time is enough
    embedding: float  # of the context's tokens

    @property
    def mine(self) -> float:
        return self.linears + self.self_attention + self.cross_attention + self.ends

    @property
    def released(self) -> float:
        return self.mine + self.context + self.times + self.embedding


def denoise(c: ModelConfig, cached_frames: int) -> Flops:
    """Cost of one velocity on top of so many cached latent frames."""
    video = c.frames_per_block * c.frame_tokens
    patch = c.patch**2
    action = (
        c.action_dim * c.dim
        + 3 * c.dim**2
        + c.dim * c.action_hidden
        + c.action_hidden * c.action_dim
    )
    state = c.state_dim * c.action_hidden + c.action_hidden * c.dim
    register = 2 * (c.actions_per_block * action + c.states_per_block * state)
    head = 2 * video * c.dim * patch * c.latent_channels
    return _pass(c, video, c.register_tokens, cached_frames, register + head)


def remember(c: ModelConfig, frames: int, cached_frames: int) -> Flops:
    """Cost of a clean pass over so many frames."""
    return _pass(c, frames * c.frame_tokens, 0, cached_frames, 0.0)


def _pass(c: ModelConfig, video: int, register: int, cached_frames: int, ends: float) -> Flops:
    tokens = video + register
    keys = min(cached_frames * c.frame_tokens, c.window_frames * c.frame_tokens - video) + tokens
    image = IMAGE_TOKENS if c.image_context else 0
    context = c.text_len + image
    embedding = 2 * c.text_len * (c.text_dim * c.dim + c.dim**2)
    if c.image_context:
        embedding += 2 * image * (c.image_dim**2 + c.image_dim * c.dim)
    inputs = (c.latent_channels + c.condition_channels) * c.patch**2
    return Flops(
        linears=2.0 * tokens * (6 * c.dim**2 + 2 * c.dim * c.ffn_dim) * c.layers,
        self_attention=4.0 * tokens * keys * c.dim * c.layers,
        cross_attention=4.0 * tokens * context * c.dim * c.layers,
        ends=ends + 2.0 * video * inputs * c.dim,
        context=4.0 * context * c.dim**2 * c.layers,
        times=2.0 * tokens * (c.freq_dim * c.dim + 7 * c.dim**2),
        embedding=float(embedding),
    )
