"""Engines: whatever runs a pass, an episode comes out the same, and nothing is made twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from wam_policy.model.execution import engines
from wam_policy.model.execution.engines import Recorded
from wam_policy.model.network.cfg import Branch, Tables
from wam_policy.model.network.model_config import ModelConfig, preset
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler

CONFIG = replace(
    preset('tiny'),
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
    window_blocks=2,
)
WITH_IMAGE = replace(CONFIG, image_context=True, image_dim=6, condition_channels=5)
COUPLED, DECOUPLED = sampler.MODES['full16'], sampler.MODES['one_step']


def model(config: ModelConfig = CONFIG) -> VideoActionDiT:
    torch.manual_seed(0)
    return VideoActionDiT(config).eval().requires_grad_(False)


class Life:
    """Drive one branch through fills, queries and instructions; keep every velocity."""

    def __init__(self, made: VideoActionDiT, run_by: engines.Engine) -> None:
        self.config = made.config
        self.branch = Branch(made, run_by, Tables(made))
        self.seen: list[Tensor] = []

    def drawn(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def latents(self, seed: int, frames: int) -> tuple[Tensor, Tensor | None]:
        c = self.config
        condition = self.drawn(seed + 1, 1, c.condition_channels, frames, *c.latent_size)
        return (
            self.drawn(seed, 1, c.latent_channels, frames, *c.latent_size),
            condition if c.condition_channels else None,
        )

    @torch.inference_mode()
    def episode(self, seed: int, recipe: sampler.Recipe = COUPLED) -> None:
        c, branch = self.config, self.branch
        branch.begin(self.drawn(seed, 1, c.text_len, c.text_dim))
        if c.image_context:
            branch.look(self.drawn(seed, 1, 3, c.image_dim))
        for fill, frames in enumerate((1, c.frames_per_block)):
            branch.remember(*self.latents(seed + fill, frames))
            branch.cache.commit(frames)
            self.query(seed, recipe)
            mark = branch.cache.frames
            branch.remember(*self.latents(seed + 7, 1))
            branch.cache.extend(1)
            self.query(seed + 1, recipe)
            branch.cache.truncate(mark)

    @torch.inference_mode()
    def query(self, seed: int, recipe: sampler.Recipe) -> None:
        c = self.config
        video, condition = self.latents(seed, c.frames_per_block)
        velocity = self.branch.velocity(self.drawn(seed, 1, 1, c.state_dim), condition)
        walks = [walk.timesteps for walk in recipe.schedules()]
        for t_video, t_action in list(zip(*walks, strict=True))[:2]:
            action = self.drawn(seed, 1, c.actions_per_block, c.action_dim)
            self.seen += velocity(video, action, t_video, t_action)


def lived(made: VideoActionDiT, run_by: engines.Engine, recipe: sampler.Recipe) -> list[Tensor]:
    life = Life(made, run_by)
    for seed in (1, 50, 99):
        life.episode(seed, recipe)
    return life.seen


class Tape:
    """Stand for CUDA graphs: a replay is blind to everything but the recorded addresses."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
        self.recorded += 1
        results = [x.clone() for x in run()]

        def replay() -> Sequence[Tensor]:
            self.replayed += 1
            for kept, new in zip(results, run(), strict=True):
                kept.copy_(new)
            return results

        return replay


@pytest.mark.parametrize('config', [CONFIG, WITH_IMAGE], ids=['plain', 'image'])
@pytest.mark.parametrize('recipe', [COUPLED, DECOUPLED], ids=['coupled', 'decoupled'])
def test_a_replayed_episode_is_the_eager_one(config: ModelConfig, recipe: sampler.Recipe) -> None:
    made, tape = model(config), Tape()
    want = lived(made, made, recipe)
    got = lived(made, Recorded(made, tape), recipe)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    # two fills, each with a commit, a query, a peek and a query on it: recorded in one episode
    assert tape.recorded == 8
    assert tape.replayed == 3 * (4 + 4 * min(2, recipe.steps))


def test_two_branches_have_recordings_of_their_own() -> None:
    made, tape = model(), Tape()
    recorded = Recorded(made, tape)
    lives = [Life(made, recorded), Life(made, recorded)]
    for seed, life in zip((1, 9), lives, strict=True):
        life.episode(seed)
    assert tape.recorded == 16
    lives[0].query(3, COUPLED)
    for seed, life in zip((1, 9), lives, strict=True):
        alone = Life(made, made)
        alone.episode(seed)
        if life is lives[0]:
            alone.query(3, COUPLED)
        assert all(torch.equal(a, b) for a, b in zip(life.seen, alone.seen, strict=True))


def test_a_context_of_another_shape_is_recorded_anew() -> None:
    made, tape = model(), Tape()
    life, alone = Life(made, Recorded(made, tape)), Life(made, made)
    for one in (life, alone):
        one.episode(1)
        with torch.inference_mode():
            one.branch.begin(one.drawn(5, 1, CONFIG.text_len + 2, CONFIG.text_dim))
            one.branch.remember(*one.latents(1, 1))
            one.branch.cache.commit(1)
            one.query(1, COUPLED)
    assert all(torch.equal(a, b) for a, b in zip(life.seen, alone.seen, strict=True))
    assert tape.recorded == 10


def test_compiled_blocks_say_the_same_and_compile_once_per_fill() -> None:
    """With the backend that needs no C++ compiler; graphs and guards are those of any backend."""
    made, plain = model(WITH_IMAGE), model(WITH_IMAGE)
    torch._dynamo.reset()
    counters.clear()
    engines.compiled(made, backend='aot_eager')
    life, want = Life(made, made), Life(plain, plain)
    for one in (life, want):
        one.episode(1)
    graphs = counters['stats']['unique_graphs']
    # both layers share each graph of 8 passes
    assert graphs == 8
    for seed in (50, 99):
        for one in (life, want):
            one.episode(seed)
    assert counters['stats']['unique_graphs'] == graphs, 'compiled again after one episode'
    for a, b in zip(life.seen, want.seen, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_cache_gives_runs_of_tokens_in_one_piece() -> None:
    cache = Branch(model(), model(), Tables(model())).cache
    cache.extend(3)
    memory = cache.layers(2)[0]
    cut = memory.keys[:, :, memory.begin : memory.at].transpose(1, 2)
    assert cut.is_contiguous() and cut.shape[1] == 3 * CONFIG.frame_tokens


def test_choices_make_engines_or_say_what_there_is() -> None:
    made = model()
    assert engines.made('eager', made) is made
    for wrong in ('fast', 'tensorrt', 'tensorrt:', 'eager:x'):
        with pytest.raises(ValueError, match='want eager, compiled or tensorrt:FOLDER'):
            engines.made(wrong, made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_graphs_of_compiled_blocks_say_the_same() -> None:
    with torch.device('cuda'):
        made, plain = model(), model()
    plain.load_state_dict(made.state_dict())

    class Afar(Life):
        def drawn(self, seed: int, *shape: int) -> Tensor:
            return super().drawn(seed, *shape).cuda()

    lives = Afar(made, engines.made('compiled', made)), Afar(plain, plain)
    for life in lives:
        life.episode(1)
        life.episode(50)
    for a, b in zip(lives[0].seen, lives[1].seen, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
