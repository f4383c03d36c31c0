"""Run the same scenes through several policies and write one table: `./wam eval --policy ...`.

A policy is a local model, the scripted expert or a policy server. Every one gets the same trials,
one policy after the other, through ROS or without it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wam_learning.evaluation import eval_metrics
from wam_learning.evaluation.eval_worker import EXPERT, EvalJob
from wam_learning.evaluation.trials import Trial, TrialResult

LOCAL = 'local'  # as a policy: the model of --checkpoint
SCHEME_MARK, PROFILE_MARK, LABEL_MARK = '://', '#', '='

RunFn = Callable[[EvalJob], list[TrialResult]]


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Name one policy of a comparison."""

    label: str
    checkpoint: str = ''  # folder, mini, preset:NAME or EXPERT; empty: a server
    server: str = ''  # address
    server_profile: str = ''  # empty: the robot's own

    @property
    def is_expert(self) -> bool:
        return self.checkpoint == EXPERT


def parse_policy(text: str, checkpoint: str) -> PolicySpec:
    """Return the policy of `[LABEL=]local|expert|CHECKPOINT|ADDRESS[#PROFILE]`.

    `checkpoint` is that of `local`. Raises ValueError for an empty part.
    """
    label, mark, what = text.partition(LABEL_MARK)
    if not mark or SCHEME_MARK in label:
        label, what = text, text
    if not label or not what:
        raise ValueError(
            f'policy {text!r}: want [LABEL=] and {LOCAL}, {EXPERT}, a checkpoint or an address'
        )
    if SCHEME_MARK in what:
        address, _, profile = what.partition(PROFILE_MARK)
        return PolicySpec(label, server=address, server_profile=profile)
    return PolicySpec(label, checkpoint=checkpoint if what == LOCAL else what)


def parse_policies(texts: Sequence[str], checkpoint: str) -> tuple[PolicySpec, ...]:
    """Return the policies of a comparison; ValueError for two with one label."""
    found = tuple(parse_policy(text, checkpoint) for text in texts)
    labels = [policy.label for policy in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f'policy {", ".join(twice)} is given twice: give each a label, LABEL=POLICY'
        )
    return found


def make_job(
    policy: PolicySpec, trials: Sequence[Trial], pace: Mapping[str, Any], choice: Mapping[str, Any]
) -> EvalJob:
    """Return the job of one policy; `choice` applies to models of ours only."""
    local = not policy.server and not policy.is_expert
    return EvalJob(
        checkpoint=policy.checkpoint,
        trials=tuple(trials),
        choice=dict(choice) if local else {},
        pace=dict(pace),
        server=policy.server,
        server_profile=policy.server_profile,
    )


def compare_policies(
    policies: Sequence[PolicySpec],
    trials: Sequence[Trial],
    run_job: RunFn,
    pace: Mapping[str, Any],
    choice: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield the metrics so far after each policy, by label: how it differs from the first, too.

    A policy that cannot be run at all has an `error` instead; the others are run nevertheless.
    """
    found: dict[str, Any] = {}
    first: Mapping[tuple[str, int], bool] | None = None
    for policy in policies:
        source = {'checkpoint': policy.checkpoint, 'server': policy.server}
        found[policy.label] = entry = {key: text for key, text in source.items() if text}
        try:
            results = run_job(make_job(policy, trials, pace, choice))
        except (ValueError, OSError, RuntimeError) as error:
            entry['error'] = str(error)
            yield found
            continue
        entry |= eval_metrics.compute_metrics(results)
        reasons = sorted({result.stop_reason for result in results if result.stop_reason})
        entry |= {'stop_reasons': reasons} if reasons else {}
        outcomes = {(result.trial.family, result.trial.seed): result.success for result in results}
        if first is None:
            first = outcomes
        else:
            entry['only_first'] = sum(ok and not outcomes.get(key) for key, ok in first.items())
            entry['only_this'] = sum(ok and not first.get(key) for key, ok in outcomes.items())
        yield found


def format_markdown(report: Mapping[str, Any]) -> str:
    """Return the comparison as a Markdown table, a row per policy."""
    path = 'through ROS' if report['path'] == 'ros' else 'without ROS, in simulated time'
    lines = [
        f'{report["robot"]}, {report["episodes"]} scenes per policy from seed {report["seed"]} on '
        f'({", ".join(report["families"])}), {path}. Rates with 95 % Wilson intervals.',
        '',
        '| policy | success | time to success, p50 / p90 | jerk against its limit | '
        'observation to chunk, p50 / p99 | query, p50 / p99 | stopped | only the first / only '
        'this one succeeds |',
        '|---' * 8 + '|',
    ]
    for label, entry in report['policies'].items():
        if 'error' in entry:
            last_line = entry['error'].strip().splitlines()[-1]
            lines.append(f'| {label} | not run: {last_line} |' + ' |' * 6)
            continue
        rate, low, high = (100 * entry[f'success_{part}'] for part in ('rate', 'low', 'high'))
        cells = [
            f'{rate:.0f} % ({low:.0f}–{high:.0f}, n = {entry["success_trials"]})',
            _format_pair(entry, 'time_to_success', 's', '.1f'),
            f'{entry["jerk_ratio"]:.3f}',
            _format_pair(entry, 'latency', 'ms', '.0f', '99'),
            _format_pair(entry, 'query', 'ms', '.0f', '99'),
            f'{entry["stopped_by_itself"]}',
            f'{entry["only_first"]} / {entry["only_this"]}' if 'only_this' in entry else '',
        ]
        lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _format_pair(
    entry: Mapping[str, Any], name: str, unit: str, form: str, upper: str = '90'
) -> str:
    keys = f'{name}_p50_{unit}', f'{name}_p{upper}_{unit}'
    if keys[0] not in entry:
        return ''
    return ' / '.join(format(entry[key], form) for key in keys) + f' {unit}'
