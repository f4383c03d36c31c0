"""What the page shows of the stack's messages, as plain values for JSON.

Every block carries its age in s; the page adds the time since it got it and grays what is old.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wam_msgs.msg import DriverStatus, EpisodeStatus, MotionStatus, PolicyStatus, SimStatus
from wam_policy.core.robot.embodiment import Embodiment

EPISODE_STATES = {
    EpisodeStatus.IDLE: 'IDLE',
    EpisodeStatus.RECORDING: 'RECORDING',
    EpisodeStatus.SAVING: 'SAVING',
    EpisodeStatus.ERROR: 'ERROR',
}


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """Hold the newest message of a topic and when it came."""

    msg: Any
    received_s: float  # monotonic clock
    delay_s: float  # from its stamp to its reception, by the node's clock; 0 without a stamp

    def age_s(self, now_s: float) -> float:
        return round(now_s - self.received_s + self.delay_s, 3)


def describe_policy(msg: PolicyStatus) -> dict[str, Any]:
    """Return state, reason, rates and latencies of the policy."""
    return {
        'state': msg.state_name,
        'reason': msg.reason,
        'instruction': msg.instruction,
        'model': msg.model,
        'trained': bool(msg.trained),
        'memory_update': msg.memory_update,
        'rate_hz': _round(msg.query_rate_hz, 2),
        'chunks': msg.chunks_published,
        'stages': [
            [name, _round(p50), _round(p99)]
            for name, p50, p99 in zip(
                msg.stage_names, msg.stage_p50_ms, msg.stage_p99_ms, strict=False
            )
        ],
        'cameras': [
            [name, _round(age), _round(rate)]
            for name, age, rate in zip(
                msg.camera_names, msg.camera_age_ms, msg.camera_rate_hz, strict=False
            )
        ],
        'joints_age_ms': _round(msg.joints_age_ms),
        'memory_blocks': msg.kv_cached_blocks,
        'memory_fill': _round(msg.kv_window_fill, 3),
        'commits': msg.kv_commits,
        'rebuilds': msg.kv_rebuilds,
        'dropped_frames': msg.dropped_frames,
        'dropped_chunks': msg.dropped_chunks,
        'restarts': msg.worker_restarts,
        'imagination': {
            'error': _round(msg.imagination_error, 4),
            'low': _round(msg.imagination_error_low, 4),
            'high': _round(msg.imagination_error_high, 4),
        },
    }


def describe_motion(msg: MotionStatus) -> dict[str, Any]:
    """Return state, reason, limits and counters of motion."""
    return {
        'state': msg.state_name,
        'reason': msg.reason,
        'enabled': bool(msg.enabled),
        'estop': bool(msg.estop),
        'first_move': bool(msg.first_move),
        'dry_run': bool(msg.dry_run),
        'deadman_ok': bool(msg.deadman_ok),
        'clamps': int(sum(msg.clamp_counts)),
        'clamped_joints': {
            name: int(count)
            for name, count in zip(msg.joint_names, msg.clamp_counts, strict=False)
            if count
        },
        'blend_offset': _round(msg.blend_offset, 4),
        'chunk_age_ms': _round(msg.chunk_age_ms),
        'rows_left': _round(msg.rows_left),
        'accepted': msg.chunks_accepted,
        'rejected': msg.chunks_rejected,
        'late': msg.chunks_late,
        'underruns': msg.underruns,
        'late_ticks': msg.late_ticks,
        'jitter_ms': _round(msg.tick_jitter_p99_ms, 2),
        'velocity_ratio': _round(msg.max_velocity_ratio, 3),
        'acceleration_ratio': _round(msg.max_acceleration_ratio, 3),
        'jerk_ratio': _round(msg.max_jerk_ratio, 3),
        'predicted_collisions': msg.predicted_collisions,
        'commands_lost': msg.commands_lost,
        'inactive_checks': [
            list(pair) for pair in zip(msg.inactive_checks, msg.inactive_reasons, strict=False)
        ],
        'stops': msg.stops,
    }


def describe_driver(msg: DriverStatus) -> dict[str, Any]:
    return {
        'simulated': bool(msg.simulated),
        'fault': msg.fault,
        'warnings': list(msg.warnings),
    }


def describe_episode(msg: EpisodeStatus) -> dict[str, Any]:
    return {
        'state': EPISODE_STATES.get(msg.state, str(msg.state)),
        'name': msg.episode_name,
        'instruction': msg.instruction,
        'duration_s': _round(msg.duration),
        'megabytes': _round(msg.size_bytes / 1e6),
        'messages': int(sum(msg.message_counts)),
        'dropped': int(sum(msg.dropped_counts)),
        'reason': msg.reason,
    }


def describe_sim(msg: SimStatus) -> dict[str, Any]:
    return {
        'instruction': msg.instruction,
        'success': bool(msg.success),
        'goals_reached': sum(map(bool, msg.goals_reached)),
        'goals': len(msg.goals_reached),
        'episode': msg.episode_index,
        'real_time_factor': _round(msg.real_time_factor, 2),
        'family': msg.task_family,
    }


def describe_joints(
    robot: Embodiment, measured: Mapping[str, float], target: Mapping[str, float]
) -> list[list[float | None]]:
    """Return [measured, target] of every observed joint; None where it is not known."""
    return [
        [
            _round(measured[name], 4) if name in measured else None,
            _round(target[name], 4) if name in target else None,
        ]
        for name in robot.observed
    ]


def list_suggestions(scene_task: str, objects: Sequence[str]) -> list[str]:
    """Return tasks that the robot knows, for the objects that are on the table.

    `objects` are names such as 'red cube'; the scene's own task comes first.
    """
    cubes = [name for name in objects if name.endswith(' cube')]
    templates = (
        'lift the {}',
        'push the {} to the left',
        'push the {} to the right',
        'touch the {} with the left hand',
        'touch the {} with the right hand',
    )
    known = [template.format(cube) for cube in cubes for template in templates]
    return [task for task in dict.fromkeys([scene_task, *known]) if task]


def _round(value: float, digits: int = 1) -> float | None:
    """Return a number that JSON can hold; None for NaN and infinity."""
    return round(float(value), digits) if math.isfinite(value) else None
