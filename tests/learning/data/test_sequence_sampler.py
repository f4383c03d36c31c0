"""Windows: which row belongs to which picture, and where a loss applies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.learning import played
from wam_learning.data import episode_arrays, gear_metadata, normalization
from wam_learning.data.episode_arrays import EpisodeArrays, EpisodeSlice
from wam_learning.data.latent_cache import FrameLatents
from wam_learning.data.sequence_sampler import NO_DELAYS, QueryDelays, SequenceSampler
from wam_learning.data.visual_inputs import CachedLatents
from wam_learning.training import training_setup
from wam_learning.training.grounding_loss import GroundingTargets
from wam_policy.model.normalizer import Normalizer

ROWS, FRAMES = 100, 17


@pytest.fixture(scope='module')
def data() -> EpisodeArrays:
    """Two episodes whose numbers tell their row; the second changes its text at row 40."""
    robot = played.embodiment.load_embodiment('agibot_g1')
    count = 2 * ROWS
    rows = np.arange(count, dtype=np.float32)
    state = np.repeat(rows[:, None] % ROWS, 20, 1) / 100
    action = np.repeat(rows[:, None] % ROWS, 22, 1) / 100 + 1
    task = np.zeros(count, np.int32)
    task[ROWS + 40 :] = 1
    supervised = np.ones(count, bool)
    supervised[50:56] = False
    spans = (
        EpisodeSlice(0, ROWS, 0, FRAMES, 'touch'),
        EpisodeSlice(ROWS, ROWS, FRAMES, FRAMES, 'recall'),
    )
    return EpisodeArrays(
        robot,
        6,
        spans,
        played.TEXTS,
        (),
        (),
        state,
        action,
        task,
        supervised,
        np.full((count, 2), 0.5, np.float32),
        np.stack([rows, rows], 1),
    )


@pytest.fixture(scope='module')
def sampler(data) -> SequenceSampler:
    return make_sampler(data)


def make_sampler(data: EpisodeArrays, delays: QueryDelays = NO_DELAYS) -> SequenceSampler:
    policy = played.make_tiny_policy()
    config = policy.spec.model
    names = torch.arange(2 * FRAMES, dtype=torch.float16)[:, None, None, None]
    shape = 2 * FRAMES, config.latent_channels, *config.latent_size
    seen = FrameLatents(names.expand(shape), -names.expand(shape))
    tag = normalization.compute_statistics(data, 24, np.random.default_rng(0))
    normalizer = Normalizer.from_metadata(
        tag, data.robot, 'mean_std', config.state_dim, config.action_dim
    )
    layout = policy.spec.canvas.make_layout('agibot', tuple(c.key for c in data.robot.cameras))
    return SequenceSampler(
        data,
        CachedLatents(seen, config),
        normalizer,
        config,
        GroundingTargets.from_data(data, layout, config),
        delays,
    )


def denormalize(sampler, batch, column=0):
    """Undo the normalization of a left-arm column: absolute targets [batch blocks actions]."""
    tag = sampler.normalizer.metadata
    key = 'left_arm_joint_position'
    state = batch.state[..., column] * tag.state[key].std[column] + tag.state[key].mean[column]
    action = batch.action[..., column] * tag.action[key].std[column] + tag.action[key].mean[column]
    return state.numpy(), (action + state[..., None]).numpy()


@pytest.mark.parametrize('shift', [0, 7, 23])
def test_rows_follow_pictures_and_are_late_together(sampler, shift) -> None:
    batch = sampler.build_batch([3], 2, np.array([shift]))
    assert batch.visual.clean[0, 0, :, 0, 0].tolist() == [-3, 7]
    assert batch.visual.future[0, 0, :, 0, 0].tolist() == [7, 11]
    state, action = denormalize(sampler, batch)
    first = 18 + shift
    assert state[0] == pytest.approx(np.array([first, first + 24]) / 100, abs=1e-5)
    assert action[0] == pytest.approx(
        (np.array([first, first + 24])[:, None] + np.arange(24)) / 100 + 1, abs=1e-5
    )
    place = (
        batch.place[0, :, 0].numpy() * sampler.grounding_targets.std_m[0]
        + sampler.grounding_targets.mean_m[0]
    )
    assert place == pytest.approx([first, first + 24], abs=1e-3)


def test_what_follows_a_disturbance_is_no_lesson_of_the_chunk_before(sampler) -> None:
    batch = sampler.build_batch([7], 1, np.array([0]))  # rows 42..65, disturbed in 50..55
    assert batch.action_mask[0, 0].tolist() == [True] * 8 + [False] * 16
    assert not batch.future_mask.any()
    free = sampler.build_batch([2], 1, np.array([0]))
    assert free.action_mask.all() and free.future_mask.all()


def test_memories_are_drawn_where_they_can_be_used(data) -> None:
    """A window of one block has nothing to remember."""
    sampler, rng = (
        make_sampler(replace(data, task=np.zeros_like(data.task))),
        np.random.default_rng(0),
    )
    share = {}
    for blocks in (1, 2):
        batch = sampler.sample(1000, blocks, rng)
        begun = batch.visual.clean[:, 0, 0, 0, 0] == -FRAMES  # with the second episode
        share[blocks] = float(begun.float().mean())
    assert 0.1 < share[1] < 0.2  # half of the quarter that begins with an episode
    assert 0.7 < share[2] < 0.8  # 1.2 of the half that are memories, and as before


def test_nobody_is_asked_for_a_goal_before_it_was_shown(data) -> None:
    sampler = make_sampler(replace(data, task=np.zeros_like(data.task)))
    batch = sampler.build_batch([0, FRAMES], 2, np.array([0, 0]))  # `touch`, `recall`
    assert batch.families == ('touch', 'recall')
    asked = (batch.patch_target.sum(-1) > 0) & torch.isfinite(batch.place).all(-1)
    assert asked.tolist() == [[True, True], [False, True]]


def test_a_window_keeps_to_its_instruction(sampler) -> None:
    second = FRAMES
    batch = sampler.build_batch(
        [second + 4], 1, np.array([0])
    )  # rows 24..47, another text from 40
    assert batch.texts == (played.TEXTS[0],)
    assert batch.action_mask[0, 0].sum() == 16 and not batch.future_mask.any()
    assert second + 4 not in sampler.valid_starts(1)  # its end has another text
    late = second + 3 * sampler.config.block_pixel_frames  # with the new one
    assert late in sampler.valid_starts(1)
    # between, a window of `recall` begins too late to remember and too early to follow
    assert not set(range(second + 1, late)) & sampler.valid_starts(1)
    assert 1 in sampler.valid_starts(1)  # of `touch`
    drawn = sampler.sample(200, 2, np.random.default_rng(0))
    assert set(drawn.families) == {'touch', 'recall'}
    assert drawn.action_mask[:, -1, 0].float().mean() > 0.95


def test_the_end_of_an_episode_holds_its_last_target(sampler) -> None:
    batch = sampler.build_batch([14], 1, np.array([0]))  # rows 84..107 of 100
    _, action = denormalize(sampler, batch)
    assert action[0, 0, -8:] == pytest.approx(np.full(8, 1.99), abs=1e-5)
    assert batch.action_mask.all() and not batch.future_mask.any()
    assert batch.visual.future[0, 0, 0, 0, 0] == FRAMES - 1  # never another episode's picture


def test_long_enough_episodes_only(sampler, data) -> None:
    assert sampler.block_counts() == [1, 2, 3, 4]
    short = episode_arrays.select_episodes(data, [0])
    short = replace(short, episodes=(EpisodeSlice(0, 20, 0, 4, ''),))
    made = SequenceSampler(
        short, sampler.visual_inputs, sampler.normalizer, sampler.config, sampler.grounding_targets
    )
    assert made.block_counts() == [1]
    blind = replace(short, supervised=np.zeros_like(data.supervised))
    with pytest.raises(ValueError, match='no window of the data set has a supervised row'):
        SequenceSampler(
            blind,
            sampler.visual_inputs,
            sampler.normalizer,
            sampler.config,
            sampler.grounding_targets,
        )


def test_scaling_is_the_normalizer_s(sampler, data) -> None:
    """What a policy does with one query, rows by the thousand do here."""
    queries = np.array([5, 120])
    ahead = queries[:, None] + np.arange(24)
    ours = normalization.normalize_actions(
        sampler.normalizer, data.robot, data.action[ahead], data.state[queries][:, None]
    )
    many = normalization.normalize_states(sampler.normalizer, data.robot, data.state[queries])
    state_at = gear_metadata.key_slices(data.robot.state_keys)
    action_at = gear_metadata.key_slices(data.robot.action_keys)
    for i, query in enumerate(queries):
        values = {key: data.state[query, part] for key, part in state_at.items()}
        targets = {key: data.action[ahead[i], part] for key, part in action_at.items()}
        assert ours[i] == pytest.approx(
            sampler.normalizer.normalize_targets(targets, values), abs=1e-5
        )
        assert many[i] == pytest.approx(sampler.normalizer.normalize_state(values), abs=1e-5)


def test_joints_that_did_not_move_do_not_blow_up(data) -> None:
    still = replace(data, action=data.action.copy(), state=data.state.copy())
    rng = np.random.default_rng(0)
    still.state[:, 0] = 0.3 + 1e-6 * rng.standard_normal(len(data.state))
    still.action[:, 0] = still.state[:, 0]
    tag = normalization.compute_statistics(still, 24, rng)
    assert tag.state['left_arm_joint_position'].std[0] == 0
    assert tag.action['left_arm_joint_position'].std[0] == 0
    blind = replace(data, supervised=np.zeros_like(data.supervised))
    with pytest.raises(ValueError, match='no row of the data set is supervised'):
        normalization.compute_statistics(blind, 24, rng)


def test_some_episodes_are_held_out(data) -> None:
    train, aside = training_setup.split_episodes(data, 3)
    assert {*train.episodes} | {*aside.episodes} == {*data.episodes} and len(aside.episodes) == 1
    with pytest.raises(ValueError, match='at least two episodes'):
        training_setup.split_episodes(episode_arrays.select_episodes(data, [0]), 3)


def test_committed_rows_are_given_and_have_no_loss(sampler) -> None:
    rows = np.array([[3], [0]])
    batch = sampler.build_batch([2, 2], 1, np.array([0, 0]), rows)
    plain = sampler.build_batch([2], 1, np.array([0]))
    assert batch.committed.sum(2).tolist() == [[3], [0]] and batch.committed[0, 0, :3].all()
    assert batch.action_mask[0, 0].tolist() == [False] * 3 + [True] * 21
    assert batch.action_mask[1].all() and not plain.committed.any()
    assert torch.equal(batch.action[0], plain.action[0])
    # rows 48..71, disturbed in 50..55: what is executed anyway need not be the expert's
    batch = sampler.build_batch([8, 8], 1, np.array([0, 0]), np.array([[8], [4]]))
    assert batch.action_mask[0, 0].tolist() == [False] * 8 + [True] * 16
    assert not batch.action_mask[1].any()


def test_delays_are_drawn_as_asked(data) -> None:
    made = make_sampler(data, QueryDelays(committed=6, late=20))
    rows = made.delays.sample_committed(4000, 2, np.random.default_rng(0))
    assert rows.shape == (4000, 2) and set(np.unique(rows)) == set(range(7))
    assert (rows > 0).mean() == pytest.approx(0.5, abs=0.02)
    shifts = []
    made.build_batch = lambda frames, blocks, shift, committed: shifts.extend(shift)
    made.sample(2000, 1, np.random.default_rng(0))
    assert max(shifts) == 24 + 20 - 1
    assert QueryDelays().sample_committed(3, 1, np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match='24 committed'):
        make_sampler(data, QueryDelays(committed=24))
