"""Count the floating-point operations of one forward pass, two per multiply-add.

`computed` counts those of our passes. The released code also recomputes keys and values of the
context and the flow time of every token in every pass; `released` adds them.
"""

from dataclasses import dataclass

from wam_policy.model.network.model_config import ModelConfig

IMAGE_TOKENS = 257  # of the released image encoder


@dataclass(frozen=True, slots=True)
class PassFlops:
    """Operations of one pass of one branch, by part."""

    linears: float  # of the blocks, without the context's keys and values
    self_attention: float
    cross_attention: float
    embeddings_and_heads: float  # patch embedding, head, action and state register
    context_keys_values: float  # keys and values of the context, once per instruction
    time_embedding: float  # per token; one per distinct time would be sufficient
    context_embedding: float  # of the context's tokens

    @property
    def computed(self) -> float:
        return (
            self.linears + self.self_attention + self.cross_attention + self.embeddings_and_heads
        )

    @property
    def released(self) -> float:
        return (
            self.computed + self.context_keys_values + self.time_embedding + self.context_embedding
        )


def count_denoise(config: ModelConfig, cached_frames: int) -> PassFlops:
    """Count the operations of one velocity evaluation with `cached_frames` in the cache."""
    video = config.frames_per_block * config.frame_tokens
    patch = config.patch**2
    action = (
        config.action_dim * config.dim
        + 3 * config.dim**2
        + config.dim * config.action_hidden
        + config.action_hidden * config.action_dim
    )
    state = config.state_dim * config.action_hidden + config.action_hidden * config.dim
    register = 2 * (config.actions_per_block * action + config.states_per_block * state)
    head = 2 * video * config.dim * patch * config.latent_channels
    return _count_pass(config, video, config.register_tokens, cached_frames, register + head)


def _count_pass(
    config: ModelConfig, video: int, register: int, cached_frames: int, ends: float
) -> PassFlops:
    tokens = video + register
    keys = (
        min(
            cached_frames * config.frame_tokens, config.window_frames * config.frame_tokens - video
        )
        + tokens
    )
    image = IMAGE_TOKENS if config.image_context else 0
    context = config.text_len + image
    embedding = 2 * config.text_len * (config.text_dim * config.dim + config.dim**2)
    if config.image_context:
        embedding += 2 * image * (config.image_dim**2 + config.image_dim * config.dim)
    inputs = (config.latent_channels + config.condition_channels) * config.patch**2
    return PassFlops(
        linears=2.0
        * tokens
        * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
        * config.layers,
        self_attention=4.0 * tokens * keys * config.dim * config.layers,
        cross_attention=4.0 * tokens * context * config.dim * config.layers,
        embeddings_and_heads=ends + 2.0 * video * inputs * config.dim,
        context_keys_values=4.0 * context * config.dim**2 * config.layers,
        time_embedding=2.0 * tokens * (config.freq_dim * config.dim + 7 * config.dim**2),
        context_embedding=float(embedding),
    )
