"""Report of the demo: one flat dictionary of values measured in the run."""

import os
import platform
from importlib import metadata

from wam_policy.provenance import collect_provenance
from wam_tools.run_metrics import LIMIT_QUANTITIES
from wam_tools.stack_monitor import EXECUTED_QUANTITIES, StackMonitor

PACKAGES = (
    'wam_policy',
    'wam_sim',
    'rclpy',
    'torch',
    'diffusers',
    'transformers',
    'mujoco',
    'numpy',
    'ruckig',
)


def find_versions() -> dict[str, str]:
    """Return the versions of Python, kernel, ROS and installed packages."""
    found = {
        'python': platform.python_version(),
        'kernel': platform.release(),
        'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
        'rmw': os.environ.get('RMW_IMPLEMENTATION', 'default'),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_environment() -> dict[str, object]:
    """Return machine, commit, load and versions of the present measurement."""
    return {**collect_provenance(), 'versions': find_versions()}


def collect_metrics(monitor: StackMonitor, now_s: float) -> dict:
    """Return the metrics of the monitor from the first chunk to `now_s` (monotonic)."""
    metrics, motion, sim, policy = monitor.metrics, monitor.motion, monitor.sim, monitor.policy
    executed = monitor.executed_ratios()
    worst = {
        name: max(metrics.commanded_ratios[name], executed[name]) for name in EXECUTED_QUANTITIES
    }
    return {
        'robot': monitor.robot.name,
        'trained': int(bool(monitor.trained)),
        'model': policy.model,
        'instruction': policy.instruction,
        'duration_s': now_s - metrics.first_chunk_s if metrics.first_chunk_s is not None else 0.0,
        'chunks': metrics.chunk_count,
        'chunk_rate_hz': metrics.rate_hz(now_s),
        'latency_ms': dict(metrics.latency_ms()),
        'kv_commits': policy.kv_commits,
        'kv_rebuilds': policy.kv_rebuilds,
        'camera_rate_hz': metrics.camera_hz(),
        'max_step_rad': max(motion.max_step, _max_arm_step_rad(monitor)),
        **{f'max_{name}_ratio': worst[name] for name in EXECUTED_QUANTITIES},
        **{f'commanded_{name}_ratio': metrics.commanded_ratios[name] for name in LIMIT_QUANTITIES},
        **{f'executed_{name}_ratio': executed[name] for name in EXECUTED_QUANTITIES},
        'max_seam_rad': metrics.max_blend_offset,
        'moved_rad': metrics.moved_rad,
        'trajectories': metrics.trajectory_count,
        'trajectories_rejected': sim.trajectories_rejected,
        'underruns': motion.underruns,
        'late_chunks': motion.chunks_late,
        'chunks_rejected': motion.chunks_rejected,
        'dropped_chunks': policy.dropped_chunks,
        'dropped_frames': policy.dropped_frames,
        'worker_restarts': policy.worker_restarts,
        'real_time_factor': metrics.real_time_factor(),
        'task_success': int(sim.success),
        **describe_environment(),
    }


def _max_arm_step_rad(monitor: StackMonitor) -> float:
    """Return the largest set-point change of an arm joint over one physics step, rad."""
    return max(
        (
            step
            for name, step in zip(
                monitor.sim.joint_names, monitor.sim.max_setpoint_step, strict=True
            )
            if monitor.robot.joint(name).kind == 'revolute'
        ),
        default=0.0,
    )
