"""How a worker runs its model is a choice; what it answers is not, and no query waits for it."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.execution import engines
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.workers import run_worker

ROBOT = embodiment.load_embodiment('yam')


def make_policy(**choice) -> Policy:
    loaded = checkpoint_folder.load('preset:tiny', torch.device('cpu'), torch.float32)
    return Policy(loaded, ROBOT, InferenceOptions(**{'steps': 2, **choice}))


def run_episode(policy: Policy, blocks: int = 7) -> np.ndarray:
    """Live past the end of a window with colored frames; return every target."""
    numbers = np.random.default_rng(1)
    rest = ROBOT.home_positions(ROBOT.observed)
    targets = []

    def frames(count: int) -> dict[str, np.ndarray]:
        return {
            key: np.repeat(numbers.integers(0, 256, (1, 1, 1, 3), np.uint8), count, 0)
            + np.zeros((1, view.shape[1], view.shape[2], 1), np.uint8)
            for key, view in run_worker.make_gray_frames(policy, 1).items()
        }

    policy.reset('put the cube away')
    for block in range(blocks):
        policy.commit(frames(policy.geometry.frames_per_block if block else 1))
        targets.append(policy.query(rest, block).targets)
        targets.append(policy.query(rest, block, frames(1)).targets)
    return np.stack(targets)


class CountingGraphCapture:
    """Stand for CUDA graphs and count."""

    def __init__(self) -> None:
        self.capture_count = 0

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
        self.capture_count += 1
        return run


@pytest.mark.parametrize(
    'choice',
    [
        {},
        pytest.param({'window': 'slide'}, marks=pytest.mark.slow),
        pytest.param({'recipe': 'one_step', 'steps': None}, marks=pytest.mark.slow),
    ],
    ids=['restart', 'slide', 'one_step'],
)
def test_nothing_is_prepared_after_the_rehearsal(monkeypatch, choice) -> None:
    want = run_episode(make_policy(**choice, pack_weights=False))
    tape = CountingGraphCapture()
    monkeypatch.setattr(
        engines, 'make_engine', lambda name, model, **_: engines.CudaGraphEngine(model, tape)
    )
    monkeypatch.setattr(engines, 'compile_autoencoder', lambda vae: None)  # has its own test
    live = make_policy(**choice, engine='compiled')
    run_worker.warm_up_full_window(live, 0)
    known = tape.capture_count
    assert known >= 8
    # eager on a CPU attends to the padding of the text as one token: sums of another order
    np.testing.assert_allclose(run_episode(live), want, rtol=0, atol=2e-6)
    assert tape.capture_count == known, 'an episode met a pass that the rehearsal had not'


@pytest.mark.parametrize('precision', ['fp8', 'int8'])
def test_a_quantised_worker_answers_nearly_the_same(precision: str) -> None:
    want, got = run_episode(make_policy(), 2), run_episode(make_policy(precision=precision), 2)
    assert 0 < np.abs(got - want).max() < 0.05


@pytest.mark.parametrize(
    'choice, said',
    [
        ({'engine': 'warp'}, 'want eager, compiled or tensorrt:FOLDER'),
        ({'precision': 'fp2'}, 'want full, fp8, int8 or a calibration'),
    ],
)
def test_choices_that_are_none_are_refused(choice, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_policy(**choice)


def test_the_command_line_reaches_every_choice() -> None:
    chosen = run_worker.parse_settings(
        [
            '--checkpoint',
            'preset:tiny',
            '--embodiment',
            'yam',
            '--sampler',
            'one_step',
            '--guidance-scale',
            '1.5',
            '--kv-window',
            'slide',
            '--guided-video',
            '--precision',
            'int8',
            '--engine',
            'eager',
            '--seed',
            '3',
        ]
    )
    choice = run_worker.build_policy(chosen).options
    assert choice == InferenceOptions(
        'one_step', None, 1.5, 'streaming', 'slide', True, 'eager', 'int8'
    )
