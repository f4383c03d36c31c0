"""Engines: whatever runs a pass, an episode comes out the same, and nothing is made twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.model import toy_network
from wam_policy.model.execution import engines, quantization
from wam_policy.model.execution.engines import CudaGraphEngine
from wam_policy.model.network.cfg import CfgBranch, PositionTimeCache
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler

CONFIG = replace(toy_network.CONFIG, window_blocks=2)
WITH_IMAGE = replace(CONFIG, image_context=True, image_dim=6, condition_channels=5)
COUPLED, DECOUPLED = sampler.SAMPLERS['full16'], sampler.SAMPLERS['one_step']


def model(config: ModelConfig = CONFIG) -> VideoActionDiT:
    return toy_network.make_model(config)


class BranchDriver:
    """Drive one branch through fills, queries and instructions; keep every velocity."""

    def __init__(self, made: VideoActionDiT, run_by: engines.ExecutionEngine) -> None:
        self.config = made.config
        self.branch = CfgBranch(made, run_by, PositionTimeCache(made))
        self.velocities: list[Tensor] = []

    def draw(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def draw_latents(self, seed: int, frames: int) -> tuple[Tensor, Tensor | None]:
        c = self.config
        condition = self.draw(seed + 1, 1, c.condition_channels, frames, *c.latent_size)
        return (
            self.draw(seed, 1, c.latent_channels, frames, *c.latent_size),
            condition if c.condition_channels else None,
        )

    @torch.inference_mode()
    def run_episode(self, seed: int, sampling: sampler.SamplingConfig = COUPLED) -> None:
        c, branch = self.config, self.branch
        branch.set_text(self.draw(seed, 1, c.text_len, c.text_dim))
        if c.image_context:
            branch.set_image(self.draw(seed, 1, 3, c.image_dim))
        for fill, frames in enumerate((1, c.frames_per_block)):
            branch.append_kv(*self.draw_latents(seed + fill, frames))
            branch.cache.commit(frames)
            self.evaluate(seed, sampling)
            mark = branch.cache.frames
            branch.append_kv(*self.draw_latents(seed + 7, 1))
            branch.cache.commit_temporary(1)
            self.evaluate(seed + 1, sampling)
            branch.cache.truncate(mark)

    @torch.inference_mode()
    def evaluate(self, seed: int, sampling: sampler.SamplingConfig) -> None:
        c = self.config
        video, condition = self.draw_latents(seed, c.frames_per_block)
        velocity = self.branch.make_velocity_fn(self.draw(seed, 1, 1, c.state_dim), condition)
        walks = [walk.timesteps for walk in sampling.make_schedules()]
        for t_video, t_action in list(zip(*walks, strict=True))[:2]:
            action = self.draw(seed, 1, c.actions_per_block, c.action_dim)
            self.velocities += velocity(video, action, t_video, t_action)


def run_episodes(
    made: VideoActionDiT, run_by: engines.ExecutionEngine, sampling: sampler.SamplingConfig
) -> list[Tensor]:
    life = BranchDriver(made, run_by)
    for seed in (1, 50, 99):
        life.run_episode(seed, sampling)
    return life.velocities


class FakeGraphCapture:
    """Stand for CUDA graphs: a replay is blind to everything but the recorded addresses."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
        self.captures += 1
        results = [x.clone() for x in run()]

        def replay() -> Sequence[Tensor]:
            self.replays += 1
            for kept, new in zip(results, run(), strict=True):
                kept.copy_(new)
            return results

        return replay


@pytest.mark.parametrize('config', [CONFIG, WITH_IMAGE], ids=['plain', 'image'])
@pytest.mark.parametrize('recipe', [COUPLED, DECOUPLED], ids=['coupled', 'decoupled'])
def test_a_replayed_episode_is_the_eager_one(
    config: ModelConfig, recipe: sampler.SamplingConfig
) -> None:
    made, tape = model(config), FakeGraphCapture()
    want = run_episodes(made, made, recipe)
    got = run_episodes(made, CudaGraphEngine(made, tape), recipe)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # two fills, each with a commit, a query, a peek and a query on it: recorded in one episode
    assert tape.captures == 8
    assert tape.replays == 3 * (4 + 4 * min(2, recipe.steps))


def test_two_branches_have_recordings_of_their_own() -> None:
    made, tape = model(), FakeGraphCapture()
    recorded = CudaGraphEngine(made, tape)
    lives = [BranchDriver(made, recorded), BranchDriver(made, recorded)]
    for seed, life in zip((1, 9), lives, strict=True):
        life.run_episode(seed)
    assert tape.captures == 16
    lives[0].evaluate(3, COUPLED)
    for seed, life in zip((1, 9), lives, strict=True):
        alone = BranchDriver(made, made)
        alone.run_episode(seed)
        if life is lives[0]:
            alone.evaluate(3, COUPLED)
        assert all(
            torch.equal(a, b) for a, b in zip(life.velocities, alone.velocities, strict=True)
        )


def test_a_context_of_another_shape_is_recorded_anew() -> None:
    made, tape = model(), FakeGraphCapture()
    life, alone = BranchDriver(made, CudaGraphEngine(made, tape)), BranchDriver(made, made)
    for one in (life, alone):
        one.run_episode(1)
        with torch.inference_mode():
            one.branch.set_text(one.draw(5, 1, CONFIG.text_len + 2, CONFIG.text_dim))
            one.branch.append_kv(*one.draw_latents(1, 1))
            one.branch.cache.commit(1)
            one.evaluate(1, COUPLED)
    assert all(torch.equal(a, b) for a, b in zip(life.velocities, alone.velocities, strict=True))
    assert tape.captures == 10


def test_compiled_blocks_say_the_same_and_compile_once_per_fill() -> None:
    """With the backend that needs no C++ compiler; graphs and guards are those of any backend."""
    made, plain = model(WITH_IMAGE), model(WITH_IMAGE)
    torch._dynamo.reset()
    counters.clear()
    engines.compile_blocks(made, backend='aot_eager')
    life, want = BranchDriver(made, made), BranchDriver(plain, plain)
    for one in (life, want):
        one.run_episode(1)
    graphs = counters['stats']['unique_graphs']
    # both layers share each graph of 4 queries; the last of 4 commits computes keys alone
    assert graphs == 4 + 4 * 2
    for seed in (50, 99):
        for one in (life, want):
            one.run_episode(seed)
    assert counters['stats']['unique_graphs'] == graphs, 'compiled again after one episode'
    for a, b in zip(life.velocities, want.velocities, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_cache_gives_runs_of_tokens_in_one_piece() -> None:
    cache = CfgBranch(model(), model(), PositionTimeCache(model())).cache
    cache.commit_temporary(3)
    memory = cache.open_layers(2)[0]
    cut = memory.keys[:, :, memory.start : memory.write_index].transpose(1, 2)
    assert cut.is_contiguous() and cut.shape[1] == 3 * CONFIG.frame_tokens


@pytest.mark.parametrize('precision', ['full', 'fp8', 'int8'])
def test_fused_projections_give_the_same_and_share_their_memory(precision: str) -> None:
    made, plain = model(), model()
    if (calibration := quantization.load_calibration(precision)) is not None:
        for one in (made, plain):
            quantization.install_quantized_linears(one, calibration)
    engines.fuse_projections(made)
    attention = made.layers[0].self_attn
    whole = attention._qkv
    assert whole is not None and whole.weight.data_ptr() == attention.q.weight.data_ptr()
    want, got = run_episodes(plain, plain, COUPLED), run_episodes(made, made, COUPLED)
    for a, b in zip(want, got, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    assert set(made.state_dict()) == set(plain.state_dict()), 'checkpoints keep their names'


def test_projections_that_are_trained_or_replaced_are_used_one_by_one() -> None:
    made = model()
    engines.fuse_projections(made)
    attention = made.layers[0].self_attn.requires_grad_(True)
    x = torch.randn(1, 3, CONFIG.dim)
    sum(part.sum() for part in attention._project(x)).backward()
    assert attention.q.weight.grad is not None
    with torch.no_grad():
        attention.q = torch.nn.Identity()
        assert torch.equal(attention._project(x)[0], x)


def test_choices_make_engines_or_say_what_there_is() -> None:
    made = model()
    assert engines.make_engine('eager', made) is made and made.folds_text_padding
    # a compiled graph takes texts of one length only
    compiled = model()
    assert engines.make_engine('compiled', compiled) is compiled
    assert not compiled.folds_text_padding
    for wrong in ('fast', 'tensorrt', 'tensorrt:', 'eager:x'):
        with pytest.raises(ValueError, match='want eager, compiled or tensorrt:FOLDER'):
            engines.make_engine(wrong, made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_graphs_of_compiled_blocks_say_the_same() -> None:
    with torch.device('cuda'):
        made, plain = model(), model()
    plain.load_state_dict(made.state_dict())

    class CudaBranchDriver(BranchDriver):
        def draw(self, seed: int, *shape: int) -> Tensor:
            return super().draw(seed, *shape).cuda()

    lives = (
        CudaBranchDriver(made, engines.make_engine('compiled', made)),
        CudaBranchDriver(plain, plain),
    )
    for life in lives:
        life.run_episode(1)
        life.run_episode(50)
    for a, b in zip(lives[0].velocities, lives[1].velocities, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
