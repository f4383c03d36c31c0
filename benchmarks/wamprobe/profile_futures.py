"""Give futures of `imagine_branches.py` to `wamprobe`, write its profile of each kind of video.

Runs in an environment of its own: `pip install wamprobe==0.1.0`, nothing else. The package's
command line profiles only its own toy models; this uses its documented interface, an adapter per
model and a benchmark whose transitions are the recorded ones.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

KINDS = ('actions_given', 'own_actions', 'copy_last', 'real_video')
SHOWN = (
    'action_dependence',
    'counterfactual_direction_accuracy',
    'candidate_ranking_spearman',
    'state_fde',
    'top1_regret',
)
TYPES: Any = import_module('wamprobe.api.types')
CAPABILITIES: Any = import_module('wamprobe.api.capabilities')
EVALUATION: Any = import_module('wamprobe.evaluation')
STATS: Any = import_module('wamprobe.stats')


class RecordedBenchmark:
    """Real transitions of the simulator: where the hand went after each action."""

    benchmark_id = 'agibot-g1-hand-v1'

    def __init__(self, report: dict[str, Any]) -> None:
        self.contexts = {str(one['seed']): one for one in report['contexts']}
        self.actions = tuple(
            TYPES.Action2D(name, TYPES.Vec2(*delta)) for name, delta in report['actions'].items()
        )
        first = next(iter(self.contexts.values()))['branches']
        self.horizon = len(next(iter(first.values()))['truth'])

    def make_suite(self) -> Any:
        """Return the scenes; the goal of a scene is where one of its actions leads, in turn."""
        moving = [action.name for action in self.actions if action.name != 'noop']
        groups = []
        for number, (name, one) in enumerate(self.contexts.items()):
            goal = one['branches'][moving[number % len(moving)]]['truth'][-1]
            context = TYPES.Context2D(name, TYPES.Vec2(*one['start']), TYPES.Vec2(*goal))
            groups.append(TYPES.InterventionGroup(context, self.actions))
        return TYPES.InterventionSuite(self.benchmark_id, tuple(groups))

    def read(self, context: Any, action: Any, kind: str) -> Any:
        """Return the trajectory of a kind of video, or `truth`."""
        states = self.contexts[context.context_id]['branches'][action.name][kind]
        return TYPES.Trajectory2D(
            context.context_id, action.name, tuple(TYPES.Vec2(*state) for state in states)
        )

    def rollout(self, context: Any, action: Any) -> Any:
        return self.read(context, action, 'truth')

    def score(self, context: Any, trajectory: Any) -> float:
        return -(trajectory.final_state - context.goal).norm()


class RecordedModel:
    """A model whose futures are recorded; `wamprobe`'s adapter protocol."""

    def __init__(self, benchmark: RecordedBenchmark, kind: str) -> None:
        self._benchmark, self._kind = benchmark, kind

    @property
    def capabilities(self) -> Any:
        return CAPABILITIES.ModelCapabilities(
            model_id=self._kind, future_representation=CAPABILITIES.FutureRepresentation.PIXELS
        )

    def predict_future(self, context: Any, action: Any, *, horizon: int, seed: int) -> Any:
        """Return the recorded future; `seed` is that of the recording."""
        assert horizon == self._benchmark.horizon
        return self._benchmark.read(context, action, self._kind)

    def close(self) -> None:
        """Do nothing: files hold the futures."""


def format_table(profiles: dict[str, dict[str, Any]]) -> str:
    """Return Markdown: a row per metric, means with the package's 95 % bootstrap interval."""
    lines = [f'| | {" | ".join(profiles)} |', f'|{"---|" * (len(profiles) + 1)}']
    for name in SHOWN:
        cells = []
        for profile in profiles.values():
            values = [context['metrics'][name] for context in profile['context_results']]
            interval = STATS.summarize(values).confidence_interval
            cells.append(f'{interval.estimate:.2f} ({interval.lower:.2f}–{interval.upper:.2f})')
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('futures', type=Path, help='file of imagine_branches.py')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the profiles to FILE')
    options = parser.parse_args(argv)
    report = json.loads(options.futures.read_text())
    benchmark = RecordedBenchmark(report)
    suite = benchmark.make_suite()
    profiles = {
        kind: EVALUATION.evaluate(RecordedModel(benchmark, kind), benchmark, suite).to_dict()
        for kind in KINDS
    }
    print(format_table(profiles))
    if options.json:
        given = {key: value for key, value in report.items() if key != 'contexts'}
        content = {**given, 'wamprobe': '0.1.0', 'profiles': profiles}
        options.json.write_text(json.dumps(content, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
