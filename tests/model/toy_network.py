"""A transformer of all kinds of layers, small enough to run in a test."""

from dataclasses import replace

import torch

from wam_policy.model.network.model_config import ModelConfig, get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT

CONFIG = replace(
    get_preset('tiny'),
    dim=24,
    heads=2,
    layers=2,
    ffn_dim=32,
    latent_size=(2, 4),
    text_len=4,
    text_dim=8,
    actions_per_block=4,
    action_dim=3,
    state_dim=5,
    action_hidden=16,
    latent_channels=3,
    frames_per_block=2,
)


def make_model(config: ModelConfig = CONFIG) -> VideoActionDiT:
    """Return it with random weights, for inference."""
    torch.manual_seed(0)
    return VideoActionDiT(config).eval().requires_grad_(False)
