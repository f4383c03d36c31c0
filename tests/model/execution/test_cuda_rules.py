"""What a CUDA device would reject or wait for, checked on a CPU with tensors without data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wam_policy.model.execution import engines, quantization
from wam_policy.model.execution.device_clock import make_device_clock
from wam_policy.model.network import attention
from wam_policy.model.network.cfg import CfgBranch, PositionTimeCache
from wam_policy.model.network.model_config import get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.streaming_session import Stopwatch

CUDA = torch.device('cuda', 0)
# heads of 64 values, as CUDA's attention kernels want; 24 + 121 tokens are no multiple of 256
CONFIG = replace(get_preset('tiny'), heads=2, layers=2, image_context=True, image_dim=64)


class OpRecorder(TorchDispatchMode):
    """Record every operation with the devices and shapes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[Tensor], list[Tensor], tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append(
            (
                str(func),
                [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)],
                [x for x in tree_leaves(result) if isinstance(x, Tensor)],
                args,
            )
        )
        return result


@contextmanager
def fake_cuda_branch(precision: str = 'full') -> Iterator[tuple[VideoActionDiT, CfgBranch]]:
    """Make a model and a branch with two committed blocks on a device that is not there."""
    with FakeTensorMode(), torch.inference_mode(), torch.device(CUDA):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = VideoActionDiT(CONFIG).eval().requires_grad_(False)
        torch.set_default_dtype(before)
        if (calibration := quantization.load_calibration(precision)) is not None:
            quantization.install_quantized_linears(model, calibration)
        branch = CfgBranch(model, engines.make_engine('eager', model), PositionTimeCache(model))
        branch.set_text(draw(1, CONFIG.text_len, CONFIG.text_dim))
        branch.set_image(draw(1, 7, CONFIG.image_dim))
        yield model, branch


@pytest.fixture(autouse=True)
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stand for the choice among CUDA's kernels, which asks the device; note whether math may be.

    The operation is one of those that CUDA chooses from.
    """
    may_use_math: list[bool] = []

    def choose(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            may_use_math.append(torch.backends.cuda.math_sdp_enabled())
        chosen = torch.ops.aten._scaled_dot_product_efficient_attention
        return chosen(q, k, v, None, False)[0]

    monkeypatch.setattr(attention.F, 'scaled_dot_product_attention', choose)
    return may_use_math


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, device=CUDA, dtype=torch.bfloat16)


def run_passes(branch: CfgBranch) -> None:
    """Commit a block and evaluate a query, coupled and decoupled."""
    c = CONFIG
    branch.append_kv(draw(1, c.latent_channels, 1, *c.latent_size), None)
    branch.cache.commit(1)
    velocity = branch.make_velocity_fn(draw(1, c.states_per_block, c.state_dim), None)
    video = draw(1, c.latent_channels, c.frames_per_block, *c.latent_size)
    action = draw(1, c.actions_per_block, c.action_dim)
    for times in ((999, 999), (900, 500)):
        velocity(video, action, *times)


@pytest.mark.parametrize('precision', ['full', 'fp8'])
def test_a_captured_pass_neither_waits_nor_reads_the_host(precision: str) -> None:
    """Graph capture forbids synchronization, host tensors, generators and varying shapes.

    The passes run twice: what depends on positions and flow times only is made by the first, which
    is the warm-up before a capture.
    """
    with fake_cuda_branch(precision) as (_, branch):
        run_passes(branch)
        branch.cache.truncate(0)
        c = CONFIG
        video = draw(1, c.latent_channels, 1, *c.latent_size)
        state, action = draw(1, 1, c.state_dim), draw(1, c.actions_per_block, c.action_dim)
        with OpRecorder() as seen:
            branch.append_kv(video, None)
            branch.cache.commit(1)
            branch.make_velocity_fn(state, None)(video, action, 900, 500)
    assert len(seen.calls) > 50
    for name, inputs, outputs, _ in seen.calls:
        assert '_local_scalar_dense' not in name and 'nonzero' not in name, f'{name} waits'
        assert 'rand' not in name and 'bernoulli' not in name, f'{name} draws'
        for x in (*inputs, *outputs):
            assert x.device == CUDA, f'{name} has a tensor on {x.device}'
            assert all(type(side) is int for side in x.shape), f'{name} has a varying shape'


def test_attention_never_falls_back_to_the_kernel_that_holds_all_scores(fused_attention) -> None:
    with fake_cuda_branch() as (_, branch), OpRecorder() as seen:
        run_passes(branch)
    assert fused_attention and not any(fused_attention)
    assert not any('softmax' in name for name, *_ in seen.calls)


def test_products_in_8_bits_have_padded_rows_and_fast_accumulation() -> None:
    with fake_cuda_branch('fp8') as (_, branch), OpRecorder() as seen:
        run_passes(branch)
    products = [call for call in seen.calls if '_scaled_mm' in call[0]]
    assert products
    for _, inputs, outputs, arguments in products:
        assert inputs[0].shape[0] % quantization.ROW_MULTIPLE == 0
        assert arguments[-1] is True and outputs[0].dtype == torch.bfloat16


def test_a_calibrated_product_has_one_scale_per_tensor() -> None:
    with FakeTensorMode(), torch.inference_mode():
        linear = torch.nn.Linear(64, 32, device=CUDA, dtype=torch.bfloat16)
        made = quantization.QuantizedLinear(quantization.NUMBER_FORMATS['fp8'], linear, 3.0)
        with OpRecorder() as seen:
            assert made(draw(2, 5, 64)).shape == (2, 5, 32)
    (_, inputs, _, _), *_ = (call for call in seen.calls if '_scaled_mm' in call[0])
    assert [x.numel() for x in inputs[2:]] == [1, 1]


def test_the_compiled_passes_trace_without_a_break_for_cuda() -> None:
    """The graphs that a compiler would get on CUDA: whole, static, and as many as expected."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with fake_cuda_branch() as (model, branch):
        for block in model.layers:
            block.compile(backend=backend, fullgraph=True, dynamic=False)
        run_passes(branch)
        # a commit, its last layer, a query with one flow time and one with two
        assert len(graphs) == 4
        branch.cache.truncate(0)
        run_passes(branch)
        assert len(graphs) == 4, 'compiled again at a fill that was warmed up'
    torch._dynamo.reset()
    for graph in graphs:
        for node in graph.graph.nodes:
            assert node.target not in ('item', 'cpu', 'tolist', 'numpy'), node.format_node()


class FakeCuda:
    """Stand for the CUDA calls of the clock and of graph capture; note their order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.time_ms = 0.0
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                fake.calls.append('record')
                fake.time_ms += 1.5
                self.at_ms = fake.time_ms

            def synchronize(self) -> None:
                fake.calls.append('synchronize')

            def elapsed_time(self, end: 'Event') -> float:
                return end.at_ms - self.at_ms

        self.Event = Event

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, 'Event', self.Event)
        monkeypatch.setattr(torch.cuda, 'current_stream', lambda device=None: 'stream')
        monkeypatch.setattr(
            torch.cuda, 'synchronize', lambda *_: self.calls.append('device synchronize')
        )


def test_stages_are_timed_without_waiting_until_they_are_read(monkeypatch) -> None:
    fake = FakeCuda()
    fake.install(monkeypatch)
    watch = Stopwatch(make_device_clock(CUDA, lambda: 0.0))
    for name in ('encode', 'denoise', 'encode'):
        watch.lap(name)
    assert fake.calls == ['record'] * 4
    assert watch.laps_ms == pytest.approx({'encode': 3.0, 'denoise': 1.5})
    assert set(fake.calls[4:]) == {'synchronize'}, 'the device itself is never waited for'


def test_captures_ignore_what_other_threads_do(monkeypatch) -> None:
    """NCCL's watchdog queries events from its own thread."""
    modes: list[str] = []

    @contextmanager
    def graph(made: object, pool: object, capture_error_mode: str) -> Iterator[None]:
        modes.append(capture_error_mode)
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)

    @contextmanager
    def on_stream(chosen: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, 'graph_pool_handle', lambda: 'pool')
    monkeypatch.setattr(torch.cuda, 'Stream', lambda: stream)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda: stream)
    monkeypatch.setattr(torch.cuda, 'stream', on_stream)
    monkeypatch.setattr(
        torch.cuda, 'CUDAGraph', lambda: SimpleNamespace(replay=lambda: modes.append('replay'))
    )
    monkeypatch.setattr(torch.cuda, 'graph', graph)
    runs: list[int] = []

    def run() -> list[Tensor]:
        runs.append(1)
        return [torch.ones(1)]

    replay = engines.CudaGraphCapture()(run)
    assert modes == ['thread_local'] and len(runs) == engines.WARMUP_RUNS + 1
    assert replay()[0].item() == 1 and modes[-1] == 'replay'
