"""Run trials without ROS: read jobs from a file and write a JSON line per result.

`./wam eval --no-ros` starts several of these processes, each with a shard of the trials.
"""

import argparse
import atexit
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

if __name__ == '__main__':
    from wam_learning import import_triton_first  # noqa: F401

from wam_learning.evaluation.rollout import (
    PolicyFailure,
    RolloutConfig,
    RolloutPolicy,
    make_simulation,
    run_trial,
)
from wam_learning.evaluation.trials import Trial, TrialResult
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import SimRobot

EXPERT = 'expert'  # as a checkpoint: the scripted expert of the simulator


@dataclass(frozen=True, slots=True)
class EvalJob:
    """Hold the trials of one policy configuration."""

    checkpoint: str  # folder, preset:NAME or EXPERT; empty: a policy server
    trials: tuple[Trial, ...]
    ablation: str = ''
    base: str = ''  # complete checkpoint under `checkpoint`, if that has only adapters
    choice: Mapping[str, Any] = field(default_factory=dict)  # fields of InferenceOptions
    pace: Mapping[str, Any] = field(default_factory=dict)  # fields of RolloutConfig
    foresight: bool = False  # compare predicted with real images
    gallery: str = ''  # folder for an image strip of the first trial of each family
    server: str = ''  # address of a policy server
    server_profile: str = ''  # empty: the robot's own

    def shard(self, index: int, count: int) -> Self:
        """Return the job with every `count`-th trial only, starting with trial `index`."""
        return type(self)(**{**self._to_dict(), 'trials': self.trials[index::count]})

    def to_json(self) -> str:
        return json.dumps({**self._to_dict(), 'trials': [asdict(trial) for trial in self.trials]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(
            **{
                **values,
                'trials': tuple(Trial.from_json(json.dumps(trial)) for trial in values['trials']),
            }
        )

    def _to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def run_job(robot: SimRobot, job: EvalJob) -> Iterator[TrialResult]:
    """Yield the result of each trial; raise ValueError or FileNotFoundError for a bad policy."""
    make_policy = make_policy_factory(robot, job)
    drawn: set[str] = set()
    for trial in job.trials:
        simulation = make_simulation(robot, trial)
        try:
            policy = make_policy(trial, simulation)
            if not job.foresight:
                yield run_trial(trial, simulation, policy, RolloutConfig(**job.pace))
                continue
            yield _run_with_video_metrics(trial, simulation, policy, job, drawn)
        except PolicyFailure as failure:
            yield make_failed_result(trial, str(failure))
        finally:
            simulation.close()


def make_failed_result(trial: Trial, reason: str) -> TrialResult:
    """Return the result of a trial that the policy could not finish."""
    return TrialResult(trial, (None,) * len(trial.goals), 0.0, 0, 0.0, reason, (), (), ())


def _run_with_video_metrics(
    trial: Trial, simulation: Any, policy: RolloutPolicy, job: EvalJob, drawn_families: set[str]
) -> TrialResult:
    from dataclasses import replace

    from wam_learning.evaluation.video_metrics import VideoPredictionMetrics

    metrics = VideoPredictionMetrics(policy)
    result = run_trial(trial, simulation, policy, RolloutConfig(**job.pace), metrics)
    psnr_db, ssim = metrics.compute_psnr_ssim()
    if (
        job.gallery
        and trial.family not in drawn_families
        and metrics.write_strip(
            Path(job.gallery) / f'{trial.series}_{trial.family}_{trial.seed}.png'
        )
    ):
        drawn_families.add(trial.family)
    return replace(result, psnr_db=psnr_db, ssim=ssim, video_sums=metrics.sum_squared_errors())


def make_policy_factory(robot: SimRobot, job: EvalJob) -> Callable[[Trial, Any], Any]:
    """Return a function that makes the policy of a trial; load a model only once."""
    if job.checkpoint == EXPERT:
        from wam_learning.demonstrations.expert_policy import ExpertPolicy

        return lambda trial, simulation: ExpertPolicy(
            simulation,
            {
                words: task
                for (_, words), task in zip(
                    reversed(trial.instructions), trial.goals, strict=False
                )
            },
        )
    if job.server:
        from wam_learning.evaluation.server_policy import ServerPolicy

        server = ServerPolicy(robot.embodiment, job.server, job.server_profile)
        atexit.register(server.close)
        return lambda trial, simulation: server
    policy = _load_policy(robot, job)
    return lambda trial, simulation: policy


def _load_policy(robot: SimRobot, job: EvalJob) -> RolloutPolicy:
    """Load the model of a checkpoint: its config.json says of which kind it is."""
    import torch

    from wam_learning.evaluation.ablations import make_ablated_policy
    from wam_learning.latent_world_model import latent_checkpoint
    from wam_learning.latent_world_model.latent_policy import LatentPolicy
    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.robot_policy import InferenceOptions

    torch.set_num_threads(1)
    if latent_checkpoint.is_latent_checkpoint(job.checkpoint):
        return LatentPolicy(latent_checkpoint.load(Path(job.checkpoint)), robot.embodiment)
    loaded = checkpoint_folder.load(
        job.checkpoint,
        torch.device('cpu'),
        torch.float32,
        Path(job.base) if job.base else None,
    )
    choice = InferenceOptions.from_defaults(loaded.spec.inference, **job.choice)
    return make_ablated_policy(job.ablation, loaded, robot.embodiment, choice)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m wam_learning.evaluation.eval_worker',
        description=(__doc__ or '').splitlines()[0],
    )
    parser.add_argument('--robot', choices=robots.list_robots(), required=True)
    parser.add_argument(
        '--job-file',
        type=Path,
        required=True,
        metavar='FILE',
        help='one job per line, as written by EvalJob.to_json',
    )
    parser.add_argument(
        '--shard',
        default='0/1',
        metavar='I/N',
        help='only every N-th trial, starting with trial I',
    )
    chosen = parser.parse_args(arguments)
    index, count = (int(part) for part in chosen.shard.split('/'))
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    robot = robots.load(chosen.robot)
    try:
        for line in chosen.job_file.read_text().splitlines():
            for result in run_job(robot, EvalJob.from_json(line).shard(index, count)):
                print(result.to_json(), flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(f'eval_worker: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
