"""Run trials without ROS: a program that reads jobs, and writes a JSON line per result.

`./wam eval --direct` starts as many of these as it may use cores, each with its share.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

if __name__ == '__main__':
    from wam_learning import import_triton_first  # noqa: F401

from wam_learning.evaluation.rollout import Pace, Policy, lived, staged
from wam_learning.evaluation.trials import Result, Trial
from wam_sim.physics import sim_robot as robots
from wam_sim.physics.sim_robot import Robot

EXPERT = 'expert'  # as a checkpoint: the simulator's own expert


@dataclass(frozen=True, slots=True)
class Job:
    """Try one policy, made in one way, many times."""

    checkpoint: str  # folder, preset:NAME or EXPERT
    trials: tuple[Trial, ...]
    ablation: str = ''
    choice: Mapping[str, Any] = field(default_factory=dict)  # of model.policy.Choice
    pace: Mapping[str, Any] = field(default_factory=dict)  # of rollout.Pace
    foresight: bool = False  # compare predicted with real pictures
    gallery: str = ''  # folder for a strip of each family's first trial

    def share(self, number: int, shares: int) -> Self:
        """Return this with every `shares`-th trial, beginning with `number`."""
        return type(self)(**{**self._fields(), 'trials': self.trials[number::shares]})

    def to_json(self) -> str:
        return json.dumps({**self._fields(), 'trials': [asdict(trial) for trial in self.trials]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(
            **{
                **values,
                'trials': tuple(Trial.from_json(json.dumps(trial)) for trial in values['trials']),
            }
        )

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def done(robot: Robot, job: Job) -> Iterator[Result]:
    """Run a job trial by trial; ValueError or FileNotFoundError for a policy that cannot be."""
    made = maker(robot, job)
    drawn: set[str] = set()
    for trial in job.trials:
        simulation = staged(robot, trial)
        try:
            policy = made(trial, simulation)
            if not job.foresight:
                yield lived(trial, simulation, policy, Pace(**job.pace))
                continue
            yield _foreseen(trial, simulation, policy, job, drawn)
        finally:
            simulation.close()


def _foreseen(trial: Trial, simulation: Any, policy: Policy, job: Job, drawn: set[str]) -> Result:
    from dataclasses import replace

    from wam_learning.evaluation.video_metrics import Foresight

    foresight = Foresight(policy)
    result = lived(trial, simulation, policy, Pace(**job.pace), foresight)
    psnr_db, ssim = foresight.figures()
    if (
        job.gallery
        and trial.family not in drawn
        and foresight.draw(Path(job.gallery) / f'{trial.series}_{trial.family}_{trial.seed}.png')
    ):
        drawn.add(trial.family)
    return replace(result, psnr_db=psnr_db, ssim=ssim)


def maker(robot: Robot, job: Job) -> Callable[[Trial, Any], Any]:
    """Return what makes a policy for a trial; a model is loaded once."""
    if job.checkpoint == EXPERT:
        from wam_learning.demonstrations.expert_policy import Oracle

        return lambda trial, simulation: Oracle(
            simulation,
            {
                words: task
                for (_, words), task in zip(reversed(trial.said), trial.goals, strict=False)
            },
        )
    import torch

    from wam_learning.evaluation.ablations import ablated
    from wam_policy.model.checkpoint import checkpoint_folder
    from wam_policy.model.robot_policy import Choice

    torch.set_num_threads(1)
    loaded = checkpoint_folder.load(job.checkpoint, torch.device('cpu'), torch.float32)
    choice = Choice.advised(loaded.design.inference, **job.choice)
    policy = ablated(job.ablation, loaded, robot.embodiment, choice)
    return lambda trial, simulation: policy


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m wam_learning.evaluation.eval_worker', description=__doc__.splitlines()[0]
    )
    parser.add_argument('--robot', choices=robots.names(), required=True)
    parser.add_argument(
        '--jobs',
        type=Path,
        required=True,
        metavar='FILE',
        help='one job per line, as Job.to_json writes it',
    )
    parser.add_argument(
        '--share',
        default='0/1',
        metavar='I/N',
        help='only every N-th trial, beginning with the I-th',
    )
    chosen = parser.parse_args(given)
    number, shares = (int(part) for part in chosen.share.split('/'))
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    robot = robots.load(chosen.robot)
    try:
        for line in chosen.jobs.read_text().splitlines():
            for result in done(robot, Job.from_json(line).share(number, shares)):
                print(result.to_json(), flush=True)
    except (ValueError, FileNotFoundError) as error:
        print(f'episodes: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
