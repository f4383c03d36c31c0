"""Imagine the future of several actions from the same scene, and simulate what really follows.

Runs in this project's environment; `profile_futures.py` gives the result to the package
`wamprobe`. From a scene with the arms at random places, one hand moves for one block (0.8 s) in
each of four directions or stays. The model gets the image before, the joint positions and the
*executed* actions, clean at every denoising step, and imagines the video. A linear probe reads
how far the hand has moved between two images: ridge regression on their difference, fitted on
other scenes, whose images went through the model's autoencoder. Compared with the same probe on
the real video (limit of probe and autoencoder), on the last image repeated, and on what the model
imagines with actions of its own.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('wam_policy', 'wam_learning', 'wam_sim')
sys.path[:0] = [str(ROOT), *(str(ROOT / 'src' / name) for name in PACKAGES)]

from benchmarks import record
from wam_policy.command_line import CommandParser
from wam_policy.core.robot import transforms
from wam_policy.core.robot.checkpoints import resolve_checkpoint
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_sim.physics import sim_robot
from wam_sim.physics.simulation import Simulation
from wam_sim.tasks.cartesian_motion import CartesianMotion, ToolGoal
from wam_sim.tasks.expert import Expert
from wam_sim.tasks.scene_state import SimEpisode, count_image_period_rows

ROBOT, SIDE, FAMILY = 'agibot_g1', 'right', 'touch'
STEP_M = 0.004  # per row of 1/30 s: 9.6 cm in a block, a third of the expert's speed
DIRECTIONS = {
    'noop': (0.0, 0.0),
    'forward': (STEP_M, 0.0),
    'back': (-STEP_M, 0.0),
    'left': (0.0, STEP_M),
    'right': (0.0, -STEP_M),
}
POOL = 2  # pixels per side that are averaged to one feature of the probe
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # tried on every fourth scene of those to fit


@dataclass(frozen=True, slots=True, eq=False)
class RealBranch:
    """What happened after one action: images and hand at the start and four times after."""

    joints: np.ndarray  # [observed] at the start
    first_views: dict[str, np.ndarray]  # by camera, uint8 [1 h w 3], at the start
    rows: np.ndarray  # [24 commanded], setpoints
    canvases: torch.Tensor  # uint8 [5 h w 3]
    hands_m: np.ndarray  # [5 2], x and y of the tool point


class BranchSimulator:
    """Run every action from the same scene."""

    def __init__(self, policy: Policy) -> None:
        robot = sim_robot.load(ROBOT)
        self._policy, self._body = policy, robot.embodiment
        self._simulation = Simulation(robot, task=FAMILY)
        self._episode = SimEpisode(self._simulation)
        self._mover = CartesianMotion(robot, self._simulation.model)
        self._expert = Expert(robot, self._mover)
        self._period = count_image_period_rows(robot.embodiment)

    @property
    def instruction(self) -> str:
        return self._simulation.task.instruction

    def find_start(self, seed: int) -> np.ndarray:
        """Return free joint positions [commanded] of the scene of a seed."""
        rng = np.random.default_rng([seed, 5])
        self._episode.reset(seed, family=FAMILY)
        while True:
            wanted = self._expert.solve_joint_positions(self._expert.sample_random_points(rng))
            if self._episode.reset(seed, family=FAMILY, joint_positions=wanted):
                return wanted

    def run(self, seed: int, start: np.ndarray, direction: tuple[float, float]) -> RealBranch:
        """Move the hand from `start` in one direction, m per row, for one block."""
        self._episode.reset(seed, family=FAMILY, joint_positions=start)
        self._mover.reset(start)
        hands = self._mover.hands
        points = {side: self._find_tool(side, start) for side in hands}
        openings = {side: float(start[hand.gripper_column]) for side, hand in hands.items()}
        first = self._episode.observe()
        seen, rows = [first], []
        for _ in range(self._body.horizon):
            rows.append(self._mover.position)
            points = {**points, SIDE: points[SIDE] + np.array([*direction, 0.0])}
            self._episode.step(self._mover.step_toward(ToolGoal(points, openings, frozenset())))
            if self._episode.has_new_images:
                seen.append(self._episode.observe())
        views = {
            camera.key: np.stack([one.frame(camera.key).rgb for one in seen])
            for camera in self._body.cameras
        }
        hands_m = [
            self._find_tool(SIDE, one.joints.positions(self._body.commanded))[:2] for one in seen
        ]
        return RealBranch(
            first.joints.positions(self._body.observed),
            {camera: frames[:1] for camera, frames in views.items()},
            np.stack(rows),
            self._policy.compose_views(views),
            np.stack(hands_m),
        )

    def _find_tool(self, side: str, commanded: np.ndarray) -> np.ndarray:
        hand = self._mover.hands[side]
        return hand.arm.compute_tool_pose(commanded[hand.columns])[0]

    def close(self) -> None:
        self._simulation.close()


class HandProbe:
    """Read how far the hand has moved, x and y in m, from the first image to later ones."""

    def __init__(
        self, first: np.ndarray, later: np.ndarray, moved_m: np.ndarray, scenes: np.ndarray
    ) -> None:
        """Fit on pairs of uint8 [n h w 3] with their motion [n 2]; `scenes` [n] numbers each."""
        features = self._find_features(first, later)
        aside, errors = scenes % 4 == 0, {}
        for ridge in RIDGES:
            slope = self._fit(features[~aside], moved_m[~aside], ridge)
            errors[ridge] = np.square(features[aside] @ slope - moved_m[aside]).sum(1).mean()
        best = min(errors, key=errors.__getitem__)
        self.error_m = float(np.sqrt(errors[best]))  # of scenes that were not fitted
        self._slope = self._fit(features, moved_m, best)

    def read(self, first: np.ndarray, later: np.ndarray) -> np.ndarray:
        """Return the motion in m [n 2] from one image [1 h w 3] to each of [n h w 3]."""
        return self._find_features(first, later) @ self._slope

    @staticmethod
    def _find_features(first: np.ndarray, later: np.ndarray) -> np.ndarray:
        change = (later.astype(np.float64) - first) / 255
        count, height, width, _ = change.shape
        pooled = change.reshape(count, height // POOL, POOL, width // POOL, POOL, 3)
        return pooled.mean((2, 4)).reshape(count, -1)

    @staticmethod
    def _fit(features: np.ndarray, moved_m: np.ndarray, ridge: float) -> np.ndarray:
        gram = features @ features.T + ridge * np.eye(len(features))
        return features.T @ np.linalg.solve(gram, moved_m)


def imagine(policy: Policy, instruction: str, branch: RealBranch, *, given: bool) -> np.ndarray:
    """Return the imagined images uint8 [4 h w 3] after the first one of a branch.

    `given`: the executed rows are clean at every step; otherwise the model samples its own.
    """
    policy.reset(instruction)
    policy.commit(branch.first_views)
    pending = policy.begin_query(branch.joints)
    actions = None
    if given:
        model_rows = transforms.to_model_actions(policy.robot, branch.rows)
        normalizer = policy.model.make_normalizer(policy.robot)
        actions = normalizer.normalize_targets(model_rows, pending.values)
    sample = policy.inference_context.predict(pending.state, 0, actions)
    policy.finish_query(pending, sample)
    return policy.decode_prediction()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fit the probe on some scenes, compare futures on others."""
    torch.manual_seed(0)
    folder = Path(resolve_checkpoint(options.checkpoint))
    loaded = checkpoint_folder.load(folder, torch.device('cpu'), torch.float32)
    robot = sim_robot.load(ROBOT).embodiment
    settings = InferenceOptions.from_defaults(loaded.spec.inference, steps=options.steps)
    policy, contexts = Policy(loaded, robot, settings), []
    simulator = BranchSimulator(policy)
    try:
        probe = fit_probe(policy, simulator, options)
        for number in range(options.contexts):
            seed = options.seed + options.fit_scenes + number
            contexts.append(compare_futures(policy, simulator, probe, seed))
    finally:
        simulator.close()
    return {
        'checkpoint': Path(options.checkpoint).name,
        'seed': options.seed,
        'steps': options.steps,
        'fit_scenes': options.fit_scenes,
        'probe_error_m': probe.error_m,
        'actions': {name: list(delta) for name, delta in DIRECTIONS.items()},
        'contexts': contexts,
    }


def fit_probe(
    policy: Policy, simulator: BranchSimulator, options: argparse.Namespace
) -> HandProbe:
    """Return the probe, fitted on scenes of its own."""
    pairs, moved, scenes = [], [], []
    for number in range(options.fit_scenes):
        seed = options.seed + number
        start = simulator.find_start(seed)
        for direction in DIRECTIONS.values():
            branch = simulator.run(seed, start, direction)
            first, later = rebuild(policy, branch)
            pairs.append((np.repeat(first, len(later), axis=0), later))
            moved.append(branch.hands_m[1:] - branch.hands_m[0])
            scenes += [number] * len(later)
    first, later = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return HandProbe(first, later, np.concatenate(moved), np.array(scenes))


def rebuild(policy: Policy, branch: RealBranch) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the later images of a branch after the autoencoder."""
    first, later = branch.canvases[:1], branch.canvases[1:]
    return policy.reconstruct(first).numpy(), policy.reconstruct(later).numpy()


def compare_futures(
    policy: Policy, simulator: BranchSimulator, probe: HandProbe, seed: int
) -> dict[str, Any]:
    """Return where the hand goes after each action: really, and by each kind of video."""
    start, branches = simulator.find_start(seed), {}
    for name, direction in DIRECTIONS.items():
        branch = simulator.run(seed, start, direction)
        # imagined images are the first one plus the imagined change: compare with that one
        shown = branch.canvases[:1].numpy()
        pairs = {
            'real_video': rebuild(policy, branch),
            'copy_last': (shown, np.repeat(shown, 4, axis=0)),
            **{
                kind: (shown, imagine(policy, simulator.instruction, branch, given=given))
                for kind, given in (('actions_given', True), ('own_actions', False))
            },
        }
        branches[name] = {
            'truth': branch.hands_m[1:].tolist(),
            **{
                kind: (branch.hands_m[0] + probe.read(*pair)).tolist()
                for kind, pair in pairs.items()
            },
        }
    return {'seed': seed, 'start': branch.hands_m[0].tolist(), 'branches': branches}


def main(argv: list[str] | None = None) -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, metavar='FILE')
    parser.add_argument('--checkpoint', default='mini', help='folder or shipped model')
    parser.add_argument('--contexts', type=int, default=24, help='scenes to compare')
    parser.add_argument('--fit-scenes', type=int, default=60, help='scenes that fit the probe')
    parser.add_argument('--steps', type=int, default=4, help='denoising steps of the video')
    parser.add_argument('--seed', type=int, default=9800000, help='first scene')
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = measure(options)
    record.write_report(options.out, report)
    print(f'probe: {1000 * report["probe_error_m"]:.0f} mm on unseen scenes; {options.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
