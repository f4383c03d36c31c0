"""Measure a chunk from camera images to joint targets by stage, in process and over the socket."""

import argparse
import time
from typing import Any

import torch

from benchmarks.chunk_latency import compute_percentile, read_peak_memory_mb
from benchmarks.worker_roundtrip import measure_wire
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.workers import run_worker as worker


def measure_chunk(
    options: argparse.Namespace,
    sampler: str,
    guidance_scale: float,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Run windows of gray images; return medians and 99th percentiles in ms."""
    robot = embodiment.load_embodiment(options.embodiment)
    loaded = checkpoint_folder.load(f'preset:{options.preset}', device, dtype)
    policy = Policy(
        loaded,
        robot,
        InferenceOptions(
            sampler, None, guidance_scale, engine=options.engine, precision=options.precision
        ),
    )
    worker.warm_up_full_window(policy, 0)
    rest, geometry = robot.home_positions(robot.observed), policy.geometry
    policy.reset('pick up the red cube')
    policy.commit(worker.make_gray_frames(policy, geometry.first_frames))
    chunks_ms, commits_ms = [], []
    stages: list[dict[str, float]] = []
    block = worker.make_gray_frames(policy, geometry.frames_per_block)
    end_s = time.perf_counter() + options.budget
    for number in range(options.rounds * geometry.window_blocks):
        if number >= 3 * geometry.window_blocks and time.perf_counter() > end_s:
            break
        start_s = time.perf_counter()
        committed = policy.commit(block)
        commits_ms.append(1e3 * (time.perf_counter() - start_s))
        start_s = time.perf_counter()
        predicted = policy.query(rest, number)
        chunks_ms.append(1e3 * (time.perf_counter() - start_s))
        stages.append(
            {f'commit {name}': ms for name, ms in committed.items()} | dict(predicted.timings_ms)
        )
    wire = measure_wire(50)
    split = {
        name: {
            'median': compute_percentile([x[name] for x in stages]),
            'p99': compute_percentile([x[name] for x in stages], 99),
        }
        for name in stages[0]
    }
    split['transport'] = {'median': wire['p50_ms'], 'p99': wire['p99_ms']}
    return {
        'mode': sampler,
        'cfg': guidance_scale,
        'embodiment': robot.name,
        'rounds': len(chunks_ms),
        'chunk_ms': compute_percentile(chunks_ms),
        'p99_ms': compute_percentile(chunks_ms, 99),
        'commit_ms': compute_percentile(commits_ms),
        'commit_p99_ms': compute_percentile(commits_ms, 99),
        'stages_ms': split,
        'parameters': loaded.parameter_count,
        'peak_memory_MB': round(read_peak_memory_mb(device), 1),
    }
