"""The measurements of gpu.py, each for a process of its own; `save` writes a row at once."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import chunk_latency, random_session
from wam_policy.model.execution import engines, quantization
from wam_policy.model.execution.device_clock import make_device_clock
from wam_policy.model.network import model_config
from wam_policy.model.sampling import sampler

ROUNDS = 20
KERNEL_WARMUPS, KERNEL_ROUNDS = 3, 10
TOP_KERNELS = 15
SaveFn = Callable[..., None]


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Define one row of chunk latencies."""

    preset: str
    sampler: str
    guidance_scale: float
    engine: str
    precision: str
    budget_s: float
    layers: int | None  # None: all


def measure_chunks(device_name: str, chosen: ChunkSettings, save: SaveFn) -> None:
    """Measure a chunk at every fill of the cache; save after every window, then with kernels."""
    device = select_device(device_name)
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    c = model_config.get_preset(chosen.preset)
    c = replace(c, layers=chosen.layers or c.layers)
    head: dict[str, Any] = {
        **asdict(chosen),
        'device': chunk_latency.read_device_name(device),
        'dtype': str(dtype).removeprefix('torch.'),
        'attention': list_attention_backends(),
        'similarity': 'assumed 1: random weights have no meaningful similarity',
    }
    sampler.velocity_similarity = random_session.assume_similar
    with torch.inference_mode():
        peak = chunk_latency.measure_matmul_rate(device, dtype)
        head['matmul_TFLOP/s'] = round(peak / 1e12, 4)
        start_s = time.perf_counter()
        model = random_session.make_random_model(c, device, dtype)
        if (calibration := quantization.load_calibration(chosen.precision)) is not None:
            quantization.install_quantized_linears(model, calibration)
        random_session.make_clock_ms(device)()
        head['weights_s'] = round(time.perf_counter() - start_s, 2)
        save(False, **head)
        timed = random_session.TimedEngine(engines.make_engine(chosen.engine, model), device)
        row = chunk_latency.measure_sampler(
            model,
            chosen.sampler,
            chosen.guidance_scale,
            argparse.Namespace(rounds=ROUNDS, budget=chosen.budget_s),
            timed,
            peak,
            lambda row: save(False, **head, **row),
        )
        save(True, **head, **row)
        session = random_session.RandomLatentSession(
            model,
            chunk_latency.make_sampling_config(chosen.sampler, chosen.guidance_scale),
            model,  # eager: kernels inside a graph are the same, and a profiler may not see them
        )
        next(session.iterate_fills())
        save(True, **head, **row, kernels=list_kernels(session.predict_chunk, device))


def select_device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    return device


def list_attention_backends() -> dict[str, bool]:
    """Return which kernels scaled_dot_product_attention may choose on CUDA."""
    cuda = torch.backends.cuda
    return {
        'flash': cuda.flash_sdp_enabled(),
        'memory_efficient': cuda.mem_efficient_sdp_enabled(),
        'cudnn': cuda.cudnn_sdp_enabled(),
        'math': cuda.math_sdp_enabled(),
    }


def list_kernels(run: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Return the kernels (on a CPU: operators) that take most of the time of `run`."""
    on_gpu = device.type == 'cuda'
    activity = torch.profiler.ProfilerActivity
    run()  # what is chosen or compiled once
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as seen:
        run()
        random_session.make_clock_ms(device)()
    unit = 'self_device_time_total' if on_gpu else 'self_cpu_time_total'
    found = sorted(seen.key_averages(), key=lambda each: -getattr(each, unit))
    total = sum(getattr(each, unit) for each in found) or 1.0
    return [
        {
            'kernel': each.key[:120],
            'calls': each.count,
            'ms': round(getattr(each, unit) / 1e3, 3),
            'share': round(getattr(each, unit) / total, 4),
        }
        for each in found[:TOP_KERNELS]
    ]


# ---- kernels that an engine may choose between


def measure_kernels(device_name: str, dry_run: bool, save: SaveFn) -> None:
    """Time matrix products and attention at the sizes of a 14B query, one by one."""
    device = select_device(device_name)
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    c = model_config.get_preset('tiny' if dry_run else 'dreamzero_14b')
    tokens = c.frames_per_block * c.frame_tokens + c.register_tokens
    rows: list[dict[str, Any]] = []
    head = {'device': chunk_latency.read_device_name(device), 'tokens': tokens}
    with torch.inference_mode():
        for name, flop, run in _iterate_kernels(c, tokens, device, dtype):
            try:
                ms = _time_kernel(run, device)
            except (RuntimeError, ValueError) as error:  # this build or device lacks it
                rows.append({'kernel': name, 'failed': str(error).splitlines()[0][:200]})
            else:
                rows.append(
                    {
                        'kernel': name,
                        'ms': round(ms, 4),
                        'TFLOP/s': round(flop / ms / 1e9, 3),
                    }
                )
            save(False, **head, variants=rows)
    save(True, **head, variants=rows)


def _iterate_kernels(
    c: model_config.ModelConfig, tokens: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, float, Callable[[], object]]]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    for count in (tokens, engines.round_up(tokens, quantization.ROW_MULTIPLE)):
        for outputs in (c.dim, 3 * c.dim, c.ffn_dim):
            shape = f'{count}x{c.dim}x{outputs}'
            flop = 2.0 * count * c.dim * outputs
            a, b = draw(count, c.dim), draw(outputs, c.dim)
            yield f'{dtype} {shape}'.removeprefix('torch.'), flop, _bind(F.linear, a, b)
            a8, b8 = (x.clamp(-4, 4).to(torch.float8_e4m3fn) for x in (a, b))
            rowwise = (
                torch.ones(count, 1, device=device),
                torch.ones(1, outputs, device=device),
            )
            tensorwise = (torch.ones((), device=device), torch.ones((), device=device))
            for scales, kind in ((rowwise, 'row'), (tensorwise, 'tensor')):
                for fast in (True, False):
                    name = f'fp8 scale per {kind}, fast accumulation {fast}, {shape}'
                    yield name, flop, _bind(_scaled_mm, a8, b8.t(), *scales, dtype, fast)
    keys = (c.window_frames - c.frames_per_block) * c.frame_tokens + tokens
    q, k, v = (draw(1, c.heads, count, c.head_dim) for count in (tokens, keys, keys))
    for backend in (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ):
        flop = 4.0 * tokens * keys * c.dim
        name = f'attention {backend.name} {tokens}x{keys}'
        yield name, flop, _bind(_attend_with, backend, q, k, v)


def _bind(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: function(*arguments)


def _scaled_mm(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, fast: bool
) -> Tensor:
    return torch.ops.aten._scaled_mm(
        a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast
    )


def _attend_with(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v)


def _time_kernel(run: Callable[[], object], device: torch.device) -> float:
    """Return the median duration in ms."""
    for _ in range(KERNEL_WARMUPS):
        run()
    now, marks = make_device_clock(device, time.perf_counter), []
    for _ in range(KERNEL_ROUNDS):
        start = now()
        run()
        marks.append((start, now()))
    return 1e3 * median(end - start for start, end in marks)


# ---- start of a worker


def measure_load(device_name: str, dry_run: bool, save: SaveFn) -> None:
    """Load a checkpoint of full size from files that take no disk space; warm up as a worker."""
    device = select_device(device_name)
    from wam_policy.core.robot import embodiment
    from wam_policy.model.checkpoint import checkpoint_folder, model_spec, random_checkpoint
    from wam_policy.model.robot_policy import InferenceOptions, Policy
    from wam_policy.workers.run_worker import warm_up_full_window

    spec = model_spec.make_preset_spec('dreamzero_14b')
    spec = random_checkpoint.make_toy_spec(spec) if dry_run else spec
    robot = embodiment.load_embodiment('agibot_g1')
    dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_checkpoint.write_sparse_checkpoint(spec, [robot], folder, dtype=torch.bfloat16)
        start_s = time.perf_counter()
        loaded = checkpoint_folder.load(folder, device, dtype)
        random_session.make_clock_ms(device)()
        taken_s = time.perf_counter() - start_s
    row: dict[str, Any] = {
        'device': chunk_latency.read_device_name(device),
        'parameters': loaded.parameter_count,
        'load_s': round(taken_s, 2),
        'load_GB/s': round(loaded.parameter_count * dtype.itemsize / taken_s / 1e9, 2),
        'host_peak_MB': round(chunk_latency.read_peak_memory_mb(torch.device('cpu')), 1),
    }
    save(False, **row)
    engine = engines.EAGER if dry_run else engines.COMPILED
    start_s = time.perf_counter()
    policy = Policy(loaded, robot, InferenceOptions('one_step', None, 1.0, engine=engine))
    warm_up_full_window(policy, 0)
    row['warm_up_s'] = round(time.perf_counter() - start_s, 2)
    row['peak_memory_MB'] = round(chunk_latency.read_peak_memory_mb(device), 1)
    save(True, **row)
