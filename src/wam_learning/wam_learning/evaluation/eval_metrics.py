"""Compute metrics of trial results: rates with intervals, times, execution metrics."""

from collections.abc import Iterable, Mapping, Sequence
from math import log10

import numpy as np
from scipy.stats import binomtest

from wam_learning.evaluation.trials import TrialResult

CONFIDENCE = 0.95
MAX_PSNR_DB = 60.0  # equal images have no finite PSNR


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate; (0, 1) without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f'{successes} successes in {trials} trials')
    if not trials:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, 'wilson')
    return float(found.low), float(found.high)


def compute_rate(outcomes: Iterable[bool], prefix: str) -> dict[str, float | int]:
    """Return a rate, its interval and the number of trials, with flat keys."""
    seen = list(outcomes)
    low, high = wilson_interval(sum(seen), len(seen))
    return {
        f'{prefix}_rate': sum(seen) / len(seen) if seen else 0.0,
        f'{prefix}_low': low,
        f'{prefix}_high': high,
        f'{prefix}_trials': len(seen),
    }


def compute_metrics(results: Sequence[TrialResult], prefix: str = '') -> dict[str, float | int]:
    """Return all metrics of one condition, with flat keys that start with `prefix`."""
    found = compute_rate((result.success for result in results), f'{prefix}success')
    for family in dict.fromkeys(result.trial.family for result in results):
        found |= compute_rate(
            (result.success for result in results if result.trial.family == family),
            f'{prefix}success_{family}',
        )
    if any(len(result.reached_s) > 1 for result in results):
        found |= compute_rate(
            (any(at is not None for at in result.reached_s[1:]) for result in results),
            f'{prefix}original',
        )
    times_s = [at for result in results if (at := result.reached_s[0]) is not None]
    if times_s:
        found[f'{prefix}time_to_success_p50_s'] = float(np.median(times_s))
        found[f'{prefix}time_to_success_p90_s'] = float(np.percentile(times_s, 90))
    return found | {
        f'{prefix}{name}': value for name, value in _compute_execution_metrics(results).items()
    }


def _compute_execution_metrics(results: Sequence[TrialResult]) -> Mapping[str, float | int]:
    """Return metrics of the execution, for successes and failures."""
    if not results:
        return {}
    latency_ms = np.concatenate([result.latency_ms for result in results])
    found: dict[str, float | int] = {
        'chunk_rate_hz': sum(result.chunks for result in results)
        / max(1e-9, sum(result.duration_s for result in results)),
        'jerk_ratio': max(result.jerk_ratio for result in results),
        'stopped_by_itself': sum(bool(result.stop_reason) for result in results),
    }
    if len(latency_ms):
        found |= {
            'latency_p50_ms': float(np.percentile(latency_ms, 50)),
            'latency_p99_ms': float(np.percentile(latency_ms, 99)),
        }
    if any(result.query_ms for result in results):
        query_ms = np.concatenate([result.query_ms for result in results])
        found['query_p50_ms'] = float(np.percentile(query_ms, 50))
        found['query_p99_ms'] = float(np.percentile(query_ms, 99))
    seams = [result.seam_rad for result in results if result.seam_rad]
    if seams:
        found['seam_p50_rad'] = float(np.percentile(np.concatenate(seams), 50))
        found['seam_p95_rad'] = float(np.percentile(np.concatenate(seams), 95))
    jerk = [result.measured_jerk_ratio for result in results if result.measured_jerk_ratio]
    if jerk:
        found['measured_jerk_ratio_p50'] = float(np.median(jerk))
        found['measured_jerk_ratio_max'] = max(jerk)
    for name in ('psnr_db', 'ssim'):
        rows = [getattr(result, name) for result in results if getattr(result, name)]
        for frame, value in enumerate(np.mean(rows, axis=0) if rows else (), 1):
            found[f'{name}_frame_{frame}'] = float(value)
    return found | compute_psnr_db(result.video_sums for result in results)


def compute_psnr_db(trial_sums: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return PSNR in dB from the sums of trials.

    Per method: `all` pixels and `moving` pixels (of the mean squared error), `mean` (of the dB
    per frame, to which still scenes contribute most for a copy).
    """
    total: dict[str, float] = {}
    for sums in trial_sums:
        for name, value in sums.items():
            total[name] = total.get(name, 0.0) + value
    if not total.get('values'):
        return {}
    found = {}
    for name in ('predicted', 'copied', 'reconstructed'):
        for label, prefix in (('all', ''), ('moving', 'moving_')):
            error, count = total[f'{prefix}{name}'], total[f'{prefix}values']
            if count:
                mean = max(error / count, 10 ** (-MAX_PSNR_DB / 10))
                found[f'{name}_psnr_db_{label}'] = -10 * log10(mean)
        found[f'{name}_psnr_db_mean'] = total[f'{name}_db'] / total['frames']
    return found
