"""Measure the latency of a chunk by stage, and its share of the peak compute rate.

Run from the repository root, e.g.: python benchmarks/chunk_latency.py --preset tiny --mode static8
A chunk is timed at every fill of the cache, after a warm-up of all fills. With --dit-only weights,
latents and context are random and no encoder is loaded, so only torch, numpy and safetensors are
needed. Without it the time is from camera images to joint targets. --engine compiled on CUDA (CUDA
graphs), --engine tensorrt and --precision are experimental: never run on a GPU by this project.
"""

import argparse
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import flops, record
from benchmarks.random_session import (
    RandomLatentSession,
    TimedEngine,
    assume_similar,
    make_clock_ms,
    make_random_model,
)
from wam_policy.model.execution import engines, quantization
from wam_policy.model.network import model_config
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler
from wam_policy.provenance import read_cpu_name

TIMES = ('chunk_ms', 'p99_ms', 'calls', 'call_ms', 'clean_ms', 'sampler_ms')
COLUMNS = ('mode', 'cfg', *TIMES, 'TFLOP', 'TFLOP/s', 'of_matmul')


def main() -> int:
    """Measure, print a table and write JSON."""
    options = make_parser().parse_args()
    device = torch.device(options.device)
    automatic = 'bfloat16' if device.type == 'cuda' else 'float32'
    dtype = getattr(torch, options.dtype or automatic)
    torch.set_num_threads(options.threads)
    c = model_config.get_preset(options.preset)
    if options.layers:
        c = model_config.ModelConfig.from_dict({**c.to_dict(), 'layers': options.layers})
    head = {'preset': options.preset, 'layers': c.layers}
    if not options.paper:
        head |= {
            'device': read_device_name(device),
            'dtype': str(dtype).removeprefix('torch.'),
            'engine': options.engine,
            'precision': options.precision,
            'threads': options.threads,
            'torch': torch.__version__,
        }
    if options.paper or options.dit_only:
        head['similarity'] = 'assumed 1: random weights have no meaningful similarity'
    if options.paper:
        rows = [count_chunk_flops(c, name, cfg) for name in options.mode for cfg in options.cfg]
        columns: Sequence[str] = ('mode', 'cfg', 'calls', 'TFLOP', 'released_TFLOP')
    elif options.dit_only:
        peak = measure_matmul_rate(device, dtype)
        head |= {'matmul_TFLOP/s': round(peak / 1e12, 4)}
        with torch.inference_mode():
            rows = list(measure_all_samplers(c, options, device, dtype, peak))
        columns = COLUMNS
    else:
        from benchmarks import end_to_end_latency

        rows = [
            end_to_end_latency.measure_chunk(options, mode, cfg, device, dtype)
            for mode in options.mode
            for cfg in options.cfg
        ]
        columns = ('mode', 'cfg', 'chunk_ms', 'p99_ms', 'commit_ms', 'stages_ms')
    print(', '.join(f'{name} {value}' for name, value in head.items() if name != 'similarity'))
    record.show(options.json, rows, columns, **head)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = record.make_parser(__doc__)
    parser.add_argument('--preset', choices=tuple(model_config.PRESETS), default='tiny')
    parser.add_argument('--device', default='cpu', help='cpu or cuda:N')
    parser.add_argument(
        '--dtype', choices=('float32', 'bfloat16'), help='default: bfloat16 on cuda, else float32'
    )
    parser.add_argument(
        '--sampler',
        '--mode',  # the old name, for one release
        dest='mode',
        nargs='+',
        choices=tuple(sampler.SAMPLERS),
        default=['static8'],
    )
    parser.add_argument(
        '--guidance-scale',
        '--cfg',  # the old name, for one release
        dest='cfg',
        nargs='+',
        type=float,
        default=[5.0],
        help='guidance scales; 1: conditional branch only (default: 5)',
    )
    parser.add_argument('--engine', default='eager', help=f'{engines.ENGINE_CHOICES} (see above)')
    parser.add_argument('--precision', default='full', help='full, fp8, int8 or a calibration')
    parser.add_argument('--rounds', type=int, default=20, help='chunks per fill')
    parser.add_argument(
        '--budget',
        type=float,
        default=60.0,
        metavar='SECONDS',
        help='limit for the rounds of one row, after the first',
    )
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    parser.add_argument('--layers', type=int, help='fewer layers than the preset has')
    parser.add_argument('--embodiment', default='yam', help='robot, without --dit-only')
    parser.add_argument(
        '--dit-only', action='store_true', help='measure only transformer and sampler'
    )
    parser.add_argument(
        '--analytic',
        '--paper',  # the old name, for one release
        dest='paper',
        action='store_true',
        help='count operations, without running the model',
    )
    return parser


# ---- the transformer alone


def measure_all_samplers(
    c: model_config.ModelConfig,
    options: argparse.Namespace,
    device: torch.device,
    dtype: torch.dtype,
    matmul_flops: float,
) -> Iterator[dict[str, Any]]:
    """Measure every sampler with every guidance scale on one model."""
    sampler.velocity_similarity = assume_similar
    model = make_random_model(c, device, dtype)
    if (calibration := quantization.load_calibration(options.precision)) is not None:
        quantization.install_quantized_linears(model, calibration)
    for mode in options.mode:
        for cfg in options.cfg:
            # a new engine, because the CUDA graphs of the previous one use its caches
            run_by = engines.make_engine(options.engine, model)
            yield measure_sampler(
                model, mode, cfg, options, TimedEngine(run_by, device), matmul_flops
            )
            if device.type == 'cuda':
                torch.cuda.empty_cache()


def measure_sampler(
    model: VideoActionDiT,
    sampler_name: str,
    guidance_scale: float,
    options: argparse.Namespace,
    timed_engine: TimedEngine,
    matmul_flops: float,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Warm up on a window, then measure its chunks at every fill.

    `on_row` gets the row so far after every window, so that a time limit loses nothing.
    """
    sampling = make_sampling_config(sampler_name, guidance_scale)
    device, now_ms = model.device, make_clock_ms(model.device)
    start_ms = now_ms()
    window = RandomLatentSession(model, sampling, timed_engine)
    for _ in window.iterate_fills():
        window.predict_chunk()
    rehearsal_s = (now_ms() - start_ms) / 1e3
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    chunks, cleans_ms, deadline_ms, row = [], [], now_ms() + 1e3 * options.budget, {}
    for number in range(options.rounds):
        if number and now_ms() > deadline_ms:
            break
        timed_engine.clear()
        for fill in window.iterate_fills():
            cleans_ms += [
                ms
                for kind, _, frames, ms in timed_engine.calls
                if kind == 'append_kv' and frames == model.config.frames_per_block
            ]
            timed_engine.clear()
            start_ms = now_ms()
            sample = window.predict_chunk()
            chunk_ms = now_ms() - start_ms
            chunks.append((fill, chunk_ms, timed_engine.calls, sample.evaluated))
            timed_engine.clear()
        row = summarize(model, sampler_name, guidance_scale, chunks, cleans_ms, matmul_flops) | {
            'rehearsal_s': round(rehearsal_s, 2),
            'rounds': len(chunks),
            'kv_MB': round(sum(x.cache.nbytes for x in window.guidance.branches) / 1e6, 2),
            'peak_memory_MB': round(read_peak_memory_mb(device), 1),
        }
        on_row(row)
    return row


def summarize(
    model: VideoActionDiT,
    sampler_name: str,
    guidance_scale: float,
    chunks: list,
    kv_update_ms: list[float],
    matmul_flops: float,
) -> dict[str, Any]:
    """Return a row with medians over all fills and per fill."""
    fills = sorted({fill for fill, *_ in chunks})
    flops_of = {fill: flops.count_denoise(model.config, fill).computed for fill in fills}
    by_fill = {}
    for fill in fills:
        durations = [ms for at, ms, *_ in chunks if at == fill]
        each = [ms for at, _, calls, _ in chunks if at == fill for *_, ms in calls]
        by_fill[fill] = {
            'chunk_ms': compute_percentile(durations),
            'p99_ms': compute_percentile(durations, 99),
            'call_ms': compute_percentile(each),
            'call_TFLOP': flops_of[fill] / 1e12,
        }
    every = [ms for _, ms, *_ in chunks]
    calls = [ms for _, _, calls, _ in chunks for *_, ms in calls]
    overhead = [ms - sum(x[-1] for x in calls) for _, ms, calls, _ in chunks]
    spent = sum(flops_of[fill] * len(calls) for fill, _, calls, _ in chunks)
    rate = spent / (sum(every) / 1e3)
    return {
        'mode': sampler_name,
        'cfg': guidance_scale,
        'chunk_ms': compute_percentile(every),
        'p99_ms': compute_percentile(every, 99),
        'evaluations': sum(chunks[-1][3]),
        'calls': len(chunks[-1][2]),
        'call_ms': compute_percentile(calls),
        'call_p99_ms': compute_percentile(calls, 99),
        'clean_ms': compute_percentile(kv_update_ms),
        'sampler_ms': compute_percentile(overhead),
        'TFLOP': round(spent / len(chunks) / 1e12, 6),
        'TFLOP/s': round(rate / 1e12, 4),
        'of_matmul': round(rate / matmul_flops, 3),
        'fills': by_fill,
    }


def count_chunk_flops(
    c: model_config.ModelConfig, sampler_name: str, guidance_scale: float
) -> dict[str, Any]:
    """Count a chunk's operations, the mean over a window's fills, without running it."""
    sampling = make_sampling_config(sampler_name, guidance_scale)
    fills = [1 + i * c.frames_per_block for i in range(c.window_blocks)]
    evaluations: list[bool] = []

    def velocity(*given: Any) -> sampler.Velocities:
        evaluations.append(given[-1])
        return given[0], given[1]

    nothing = torch.ones(1, 1, 1)
    sampler.velocity_similarity = lambda older, newer: 1.0
    sampler.sample(sampling, nothing, nothing, velocity, guided_video=False)
    calls = len(evaluations) + (sum(evaluations) if sampling.guides_actions() else 0)
    passes = [flops.count_denoise(c, fill) for fill in fills]
    return {
        'mode': sampler_name,
        'cfg': guidance_scale,
        'calls': calls,
        'TFLOP': round(calls * sum(x.computed for x in passes) / len(fills) / 1e12, 4),
        'released_TFLOP': round(
            2 * len(evaluations) * sum(x.released for x in passes) / len(fills) / 1e12, 4
        ),
    }


def make_sampling_config(sampler_name: str, guidance_scale: float) -> sampler.SamplingConfig:
    return replace(sampler.SAMPLERS[sampler_name], guidance=guidance_scale)


def compute_percentile(durations_ms: Sequence[float], percentile: float = 50) -> float:
    return round(float(np.percentile(durations_ms, percentile)), 3)


def measure_matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the maximum rate of one large matrix product, in operations per second."""
    size = 8192 if device.type == 'cuda' else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    now_ms = make_clock_ms(device)
    taken_ms = []
    for _ in range(10):
        start_ms = now_ms()
        torch.mm(a, b)
        taken_ms.append(now_ms() - start_ms)
    return 2 * size**3 / (min(taken_ms) / 1e3)


def read_peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MB: of the device, or of the process on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def read_device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else read_cpu_name()


if __name__ == '__main__':
    sys.exit(main())
