"""What is ours of the wamprobe profile, without that package: branches, probe, replay."""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.wamprobe import imagine_branches
from wam_policy.core.robot.checkpoints import resolve_checkpoint
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_sim.physics import sim_robot

SEED = 9_800_001


@pytest.fixture(scope='module')
def policy() -> Policy:
    folder = Path(resolve_checkpoint('mini'))
    loaded = checkpoint_folder.load(folder, torch.device('cpu'), torch.float32)
    options = InferenceOptions.from_defaults(loaded.spec.inference, steps=2)
    return Policy(loaded, sim_robot.load('agibot_g1').embodiment, options)


@pytest.fixture(scope='module')
def branches(policy: Policy) -> dict[str, imagine_branches.RealBranch]:
    simulator = imagine_branches.BranchSimulator(policy)
    start = simulator.find_start(SEED)
    found = {
        name: simulator.run(SEED, start, imagine_branches.DIRECTIONS[name])
        for name in ('noop', 'forward', 'left')
    }
    simulator.close()
    return found


def test_every_action_starts_from_the_same_scene(branches) -> None:
    noop, forward = branches['noop'], branches['forward']
    assert torch.equal(noop.canvases[0], forward.canvases[0])
    np.testing.assert_array_equal(noop.joints, forward.joints)
    assert noop.rows.shape == (24, len(noop.rows[0])) and len(noop.hands_m) == 5
    np.testing.assert_array_equal(noop.rows[0], forward.rows[0])


def test_the_hand_goes_where_the_action_says(branches) -> None:
    moved = {name: one.hands_m[-1] - one.hands_m[0] for name, one in branches.items()}
    assert np.abs(moved['noop']).max() < 0.01
    assert moved['forward'][0] > 0.05 and abs(moved['forward'][1]) < 0.02
    assert moved['left'][1] > 0.05 and abs(moved['left'][0]) < 0.02


def test_the_given_actions_are_those_that_were_executed(policy, branches, monkeypatch) -> None:
    seen = []
    context = policy.inference_context
    original = type(context).predict

    def record_predict(self, state, seed, committed=None):
        sample = original(self, state, seed, committed)
        seen.append((committed, sample))
        return sample

    monkeypatch.setattr(type(context), 'predict', record_predict)
    video = imagine_branches.imagine(policy, 'touch the red cube', branches['left'], given=True)
    imagine_branches.imagine(policy, 'touch the red cube', branches['left'], given=False)
    assert video.shape == (4, 64, 96, 3) and video.dtype == np.uint8
    (held, sample), (nothing, free) = seen
    assert nothing is None and held.shape == tuple(sample.action.shape[1:])
    np.testing.assert_allclose(sample.action[0].numpy(), held, atol=1e-6)
    assert (free.action - sample.action).abs().max() > 0.1


def test_the_probe_reads_motion_in_unseen_images() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]

    def draw(at: np.ndarray) -> np.ndarray:
        distance = (rows - at[:, :1, None]) ** 2 + (columns - at[:, 1:, None]) ** 2
        return np.repeat((250 * np.exp(-distance / 200))[..., None], 3, axis=3).astype(np.uint8)

    begin = rng.uniform(20, 44, (400, 2))
    end = begin + rng.uniform(-8, 8, (400, 2))
    moved, first, later = (end - begin) / 100, draw(begin), draw(end)
    probe = imagine_branches.HandProbe(first[:300], later[:300], moved[:300], np.arange(300) // 5)
    found = np.concatenate([probe.read(first[[i]], later[[i]]) for i in range(300, 400)])
    error = np.linalg.norm(found - moved[300:], axis=1).mean()
    assert error < 0.4 * np.linalg.norm(moved[300:], axis=1).mean()
    np.testing.assert_allclose(probe.read(first[:1], first[:1]), 0.0, atol=1e-12)


# ---- profile_futures.py, with a double of the package's types


@dataclass(frozen=True)
class Vec2Double:
    x: float
    y: float

    def __sub__(self, other: 'Vec2Double') -> 'Vec2Double':
        return Vec2Double(self.x - other.x, self.y - other.y)

    def norm(self) -> float:
        return float(np.hypot(self.x, self.y))


@dataclass(frozen=True)
class TrajectoryDouble:
    context_id: str
    action_name: str
    states: tuple[Vec2Double, ...]

    @property
    def final_state(self) -> Vec2Double:
        return self.states[-1]


@pytest.fixture
def profile_futures(monkeypatch):
    def evaluate_double(adapter, benchmark, suite):
        metrics = dict.fromkeys(module.SHOWN, 0.0)
        errors, scores = [], []
        for group in suite.groups:
            for action in group.actions:
                found = adapter.predict_future(group.context, action, horizon=4, seed=0)
                truth = benchmark.rollout(group.context, action)
                errors.append((found.final_state - truth.final_state).norm())
                scores.append(benchmark.score(group.context, truth))
        metrics |= {'state_fde': float(np.mean(errors)), 'top1_regret': max(scores)}
        whole = {'metrics': metrics, 'context_results': [{'metrics': metrics}]}
        return SimpleNamespace(to_dict=lambda: whole)

    def summarize_double(values):
        interval = SimpleNamespace(estimate=sum(values), lower=-1.0, upper=1.0)
        return SimpleNamespace(confidence_interval=interval)

    def group(context, actions):
        return SimpleNamespace(context=context, actions=actions)

    contents = {
        'wamprobe': {},
        'wamprobe.api': {},
        'wamprobe.api.types': {
            'Vec2': Vec2Double,
            'Trajectory2D': TrajectoryDouble,
            'Action2D': lambda name, delta: SimpleNamespace(name=name, delta=delta),
            'Context2D': lambda name, at, goal: SimpleNamespace(
                context_id=name, position=at, goal=goal
            ),
            'InterventionGroup': group,
            'InterventionSuite': lambda name, groups: SimpleNamespace(groups=groups),
        },
        'wamprobe.api.capabilities': {},
        'wamprobe.evaluation': {'evaluate': evaluate_double},
        'wamprobe.stats': {'summarize': summarize_double},
    }
    for name, members in contents.items():
        double = ModuleType(name)
        vars(double).update(members)
        monkeypatch.setitem(sys.modules, name, double)
    monkeypatch.delitem(sys.modules, 'benchmarks.wamprobe.profile_futures', raising=False)
    module = importlib.import_module('benchmarks.wamprobe.profile_futures')
    yield module
    sys.modules.pop('benchmarks.wamprobe.profile_futures', None)


def test_recorded_futures_are_compared_with_recorded_transitions(
    profile_futures, tmp_path: Path, capsys
) -> None:
    def futures(end_x: float) -> list[list[float]]:
        return [[0.0, 0.0]] * 3 + [[end_x, 0.0]]

    branch = {'truth': futures(0.1), **dict.fromkeys(profile_futures.KINDS, futures(0.0))}
    branch['actions_given'] = futures(0.07)
    actions = {'noop': [0.0, 0.0], 'forward': [0.004, 0.0]}
    report = {
        'actions': actions,
        'checkpoint': 'mini',
        'contexts': [{'seed': 5, 'start': [0.0, 0.0], 'branches': dict.fromkeys(actions, branch)}],
    }
    path, out = tmp_path / 'futures.json', tmp_path / 'profile.json'
    path.write_text(json.dumps(report))
    assert profile_futures.main([str(path), '--json', str(out)]) == 0
    found = json.loads(out.read_text())
    assert found['checkpoint'] == 'mini' and 'contexts' not in found
    errors = {kind: one['metrics']['state_fde'] for kind, one in found['profiles'].items()}
    assert errors['actions_given'] == pytest.approx(0.03)
    assert errors['own_actions'] == pytest.approx(0.1)
    # the goal is where an action leads: the best score is no distance
    assert found['profiles']['copy_last']['metrics']['top1_regret'] == 0.0
    assert '| state_fde | 0.03 (-1.00–1.00) | 0.10 (-1.00–1.00) |' in capsys.readouterr().out
