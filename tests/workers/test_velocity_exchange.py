"""Two real workers on the tiny model: equal to one process, and able to lose either of them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.workers.protocol import PeerLost
from wam_policy.workers.supervisor import (
    RequestInterrupted,
    WorkerError,
    WorkerExited,
    WorkerSpec,
    WorkerState,
    WorkerSupervisor,
)
from wam_policy.workers.velocity_exchange import ExchangeConfig, VelocityExchange
from wam_policy.workers.worker_process import make_worker_environment

ROBOT = embodiment.load_embodiment('agibot_g1')
STEPS, GUIDANCE, WEIGHTS_SEED = 3, 5.0, 11
WORKER_SPEC = WorkerSpec(
    ('cpu', 'cpu'),
    (
        '--checkpoint',
        'preset:tiny',
        '--embodiment',
        ROBOT.name,
        '--steps',
        str(STEPS),
        '--guidance-scale',
        str(GUIDANCE),
        '--seed',
        str(WEIGHTS_SEED),
    ),
    start_timeout_s=200.0,
)
ANSWER_TIMEOUT_S = 30.0  # the machine may be busy; a test that waits longer hangs

pytestmark = pytest.mark.timeout(400)


def make_views(seed: int, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        camera.key: random.integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
        for camera in ROBOT.cameras
    }


def make_joint_positions() -> np.ndarray:
    return ROBOT.home_positions(ROBOT.observed) + 0.01


class WorkerEpisode:
    """Live the same episode on a pair as on a policy in this process."""

    def __init__(self, supervisor: WorkerSupervisor, session: str) -> None:
        self.supervisor, self.session, self.sequence = supervisor, session, 0

    def request(self, kind: str, arrays=None, **fields):
        return self.supervisor.request(
            kind, {'session': self.session, **fields}, arrays, timeout_s=ANSWER_TIMEOUT_S
        )

    def replay(self, instruction: str, blocks: int) -> dict:
        self.request('reset', instruction=instruction)
        fields = {}
        for block in range(blocks):
            frames = make_views(block, 4 if block else 1)
            fields = self.request(
                'commit',
                {f'frames/{key}': view for key, view in frames.items()},
                block=block,
                stamps_ns=[block],
            ).fields
        return fields

    def request_chunk(self, seed: int, newest: int | None = None) -> np.ndarray:
        self.sequence += 1
        extra = (
            {}
            if newest is None
            else {f'newest/{key}': view for key, view in make_views(newest, 1).items()}
        )
        return self.request(
            'query',
            {'joints': make_joint_positions(), **extra},
            sequence=self.sequence,
            stamp_ns=0,
            seed=seed,
        ).arrays['targets']


@pytest.fixture(scope='module')
def pair():
    with WorkerSupervisor(WORKER_SPEC) as made:
        status = made.wait_ready(200)
        assert status.state == WorkerState.READY, status.reason
        yield made
        processes = [program.pid for program in made._group._processes]
    assert not [pid for pid in processes if Path(f'/proc/{pid}').exists()]


@pytest.fixture(scope='module')
def alone() -> Policy:
    torch.set_num_threads(1)
    loaded = checkpoint_folder.load(
        'preset:tiny', torch.device('cpu'), torch.float32, seed=WEIGHTS_SEED
    )
    return Policy(loaded, ROBOT, InferenceOptions(steps=STEPS, guidance=GUIDANCE))


def run_episode(policy: Policy, instruction: str, blocks: int) -> None:
    policy.reset(instruction)
    for block in range(blocks):
        policy.commit(make_views(block, 4 if block else 1))


def test_a_ready_pair_says_what_it_is(pair):
    facts = pair.status.info
    assert (facts['model'], facts['trained']) == ('UNTRAINED tiny', False)
    assert facts['embodiment_hash'] == ROBOT.config_hash and facts['statistics']['synthetic']
    geometry = facts['geometry']
    assert geometry['cameras'] == [camera.key for camera in ROBOT.cameras]
    assert (geometry['frames_per_block'], geometry['horizon']) == (4, 24)
    assert geometry['frame_period_s'] == pytest.approx(0.2)


@pytest.mark.parametrize('blocks', [1, 3, 6])
def test_two_workers_give_the_chunk_of_one_process(pair, alone, blocks):
    episode = WorkerEpisode(pair, f'equal {blocks}')
    episode.replay('pick up the red cube', blocks)
    run_episode(alone, 'pick up the red cube', blocks)
    for newest in (None, 77):
        found = episode.request_chunk(5, newest)
        seen = None if newest is None else make_views(newest, 1)
        wanted = alone.query(make_joint_positions(), 5, seen)
        assert found.shape == (24, 16) and np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted.targets, rtol=0, atol=1e-6)


def test_guidance_reaches_the_actions(alone):
    """Without this the test above would hold for a pair that never swaps anything."""
    run_episode(alone, 'pick up the red cube', 2)
    guided = alone.query(make_joint_positions(), 5).targets
    plain = Policy(alone.model, ROBOT, InferenceOptions(steps=STEPS, guidance=1.0))
    run_episode(plain, 'pick up the red cube', 2)
    assert np.abs(guided - plain.query(make_joint_positions(), 5).targets).max() > 1e-4


def test_a_seed_decides_and_a_query_leaves_no_trace(pair):
    episode = WorkerEpisode(pair, 'seeds')
    episode.replay('wave', 2)
    first, other, again = (
        episode.request_chunk(1),
        episode.request_chunk(2),
        episode.request_chunk(1),
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_another_instruction_empties_the_memory_and_changes_the_actions(pair):
    episode = WorkerEpisode(pair, 'one')
    assert episode.replay('wave', 3)['cached_blocks'] == 2
    before = episode.request_chunk(1)
    episode.session = 'two'
    episode.sequence = 0
    episode.request('reset', instruction='stack the blocks')
    with pytest.raises(WorkerError, match='before any commit'):
        episode.request_chunk(1)
    fields = episode.replay('stack the blocks', 3)
    assert (fields['cached_blocks'], fields['commits']) == (2, 3)
    assert np.abs(before - episode.request_chunk(1)).max() > 1e-6
    with pytest.raises(WorkerError, match="session 'one' while 'two' is on"):
        WorkerEpisode(pair, 'one').request_chunk(1)


def test_an_instruction_need_not_wait_for_the_answer_of_a_query(pair):
    episode = WorkerEpisode(pair, 'late')
    episode.replay('wave', 2)
    wanted = episode.request_chunk(3)
    threading.Timer(0.003, pair.interrupt).start()
    with pytest.raises(RequestInterrupted):
        for _ in range(200):  # whichever is under way then
            episode.request_chunk(4)
    episode.session, episode.sequence = 'next', 0
    episode.replay('wave', 2)
    np.testing.assert_array_equal(episode.request_chunk(3), wanted)


def test_the_predicted_picture_is_decoded_on_request(pair):
    episode = WorkerEpisode(pair, 'video')
    episode.replay('wave', 2)
    episode.request_chunk(1)
    frames = episode.request('video').arrays['frames']
    assert frames.dtype == np.uint8 and frames.shape[1:] == (64, 96, 3)


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_either_worker_may_be_killed_in_a_query_and_a_replay_gives_the_same_chunk(pair, rank):
    episode = WorkerEpisode(pair, f'before {rank}')
    episode.replay('wave', 3)
    wanted = episode.request_chunk(9)
    generation, victims = pair.status.generation, [p.pid for p in pair._group._processes]
    threading.Timer(0.05, os.kill, (victims[rank], signal.SIGKILL)).start()
    start_s = time.monotonic()
    with pytest.raises(WorkerExited, match=f'rank {rank}.* was killed by SIGKILL'):
        while time.monotonic() - start_s < 20:
            episode.request_chunk(9)
    assert time.monotonic() - start_s < 5
    assert not [pid for pid in victims if Path(f'/proc/{pid}').exists()]
    end_s = time.monotonic() + 200
    while pair.status.generation == generation and time.monotonic() < end_s:
        time.sleep(0.01)
    assert pair.wait_ready(200).state == WorkerState.READY
    episode.session, episode.sequence = f'after {rank}', 0
    episode.replay('wave', 3)
    np.testing.assert_array_equal(episode.request_chunk(9), wanted)


def test_velocities_are_swapped_and_a_lost_peer_is_seen_at_once(tmp_path):
    seat = {
        'world_size': 2,
        'backend': 'gloo',
        'rendezvous': (tmp_path / 'meet').as_uri(),
        'start_timeout_s': 60.0,
        'timeout_s': 4.0,
    }
    peer = subprocess.Popen(
        [
            sys.executable,
            '-c',
            textwrap.dedent(f"""
        import os, time, torch
        from wam_policy.workers.velocity_exchange import ExchangeConfig, VelocityExchange
        swap = VelocityExchange(ExchangeConfig(rank=1, **{seat!r}), torch.device('cpu'))
        time.sleep({1.5 * seat['timeout_s']})  # it compiles: no reason to give it up
        video, action = swap(torch.full((1, 2, 3), 1.0), torch.full((4, 5), 2.0))
        swap.end_start()
        assert (video == 3).all() and (action == 4).all()
        swap(video.bfloat16(), action.bfloat16())
        os._exit(0)
    """),
        ],
        env=make_worker_environment({}),
    )
    swap = VelocityExchange(ExchangeConfig(rank=0, **seat), torch.device('cpu'))
    try:
        video, action = swap(torch.full((1, 2, 3), 3.0), torch.full((4, 5), 4.0))
        swap.end_start()
        kept = video.clone()
        assert video.shape == (1, 2, 3) and (video == 1).all() and (action == 2).all()
        other, _ = swap(torch.zeros(1, 2, 3).bfloat16(), torch.zeros(4, 5).bfloat16())
        assert other.dtype == torch.bfloat16 and (other == 3).all()
        assert torch.equal(video, kept)  # what was handed out stays
        assert peer.wait(30) == 0
        start_s = time.monotonic()
        with pytest.raises(PeerLost, match='worker 1 was lost'):
            swap(video, action)
        assert time.monotonic() - start_s < 5
    finally:
        swap.close()
        peer.kill()
        peer.wait()


def test_a_peer_that_never_comes_is_lost(tmp_path):
    seat = ExchangeConfig(0, 2, 'gloo', (tmp_path / 'meet').as_uri(), 0.2, 1.0)
    with pytest.raises(PeerLost, match='worker 1 did not join'):
        VelocityExchange(seat, torch.device('cpu'))


@pytest.mark.parametrize(
    'changed, said',
    [
        ({'rank': 2}, 'rank 2 of 2'),
        ({'world_size': 3}, 'at most 2'),
        ({'backend': 'mpi'}, "'mpi'"),
        ({'rendezvous': 'tcp://host:1'}, 'file:///'),
    ],
)
def test_a_seat_is_checked_at_the_door(changed, said):
    good = {
        'rank': 0,
        'world_size': 2,
        'backend': 'gloo',
        'rendezvous': 'file:///x',
        'start_timeout_s': 1.0,
        'timeout_s': 1.0,
    }
    with pytest.raises(ValueError, match=said):
        ExchangeConfig(**{**good, **changed})
