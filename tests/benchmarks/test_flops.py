"""Costs on paper against a counter, and against the published figures of the large model."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import ModelConfig, get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT

LARGE = get_preset('dreamzero_14b')
TERA = 1e12


@pytest.mark.parametrize(
    'actions, teras', [(24, (51.6, 54.2, 56.8, 59.4)), (48, (52.3, 54.9, 57.6, 60.2))]
)
def test_denoising_passes_of_the_large_model(actions: int, teras: tuple[float, ...]) -> None:
    config = replace(LARGE, actions_per_block=actions)
    for cached, tera in zip((1, 3, 5, 7), teras, strict=True):
        assert flops.count_denoise(config, cached).released / TERA == pytest.approx(tera, abs=0.06)


def test_the_large_models_parts() -> None:
    parts = flops.count_denoise(LARGE, 7)
    found = (
        parts.linears,
        parts.context_keys_values,
        parts.self_attention,
        parts.cross_attention,
        parts.time_embedding,
        parts.embeddings_and_heads + parts.context_embedding,
    )
    for got, tera in zip(found, (42.7, 3.2, 11.6, 1.1, 0.66, 0.06), strict=True):
        assert got / TERA == pytest.approx(tera, rel=0.05)
    assert parts.released / TERA == pytest.approx(59.36, abs=0.01)


TOY = replace(get_preset('tiny'), dim=32, heads=2, layers=2, ffn_dim=48, latent_size=(4, 4))
TOYS = [
    TOY,
    replace(
        TOY,
        frames_per_block=2,
        window_blocks=3,
        image_context=True,
        image_dim=8,
        condition_channels=5,
    ),
]


@pytest.mark.parametrize('config', TOYS, ids=['plain', 'image'])
@pytest.mark.parametrize('cached', [1, 3])
@torch.inference_mode()
def test_a_counter_counts_the_same(config: ModelConfig, cached: int) -> None:
    """The counter sees matrix products, as the formulas do; it knows nothing of them."""
    with torch.device('meta'):
        model = VideoActionDiT(config).eval()
        image = torch.zeros(1, flops.IMAGE_TOKENS, config.image_dim or 1)
        context = model.embed_context(
            torch.zeros(1, config.text_len, config.text_dim),
            image if config.image_context else None,
        )
        cache = KVCache(config, 1, 'meta', torch.float32)
        time = model.embed_flow_time(torch.zeros(1, 1))
        block = config.frames_per_block
        video = torch.zeros(1, config.latent_channels, block, *config.latent_size)
        condition = (
            torch.zeros(1, config.condition_channels, block, *config.latent_size)
            if config.condition_channels
            else None
        )
        cache.commit_temporary(cached)
        with FlopCounterMode(display=False) as counter:
            model.denoise(
                video,
                torch.zeros(1, config.actions_per_block, config.action_dim),
                torch.zeros(1, config.states_per_block, config.state_dim),
                time,
                time,
                model.compute_block_rotation(cached),
                context,
                cache,
                condition,
            )
    # angles are outer products, which the counter takes for arithmetic of no account
    assert counter.get_total_flops() == pytest.approx(flops.count_denoise(config, cached).computed)
