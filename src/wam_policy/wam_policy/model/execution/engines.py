"""How the two passes of inference run: as written, compiled, recorded, or by TensorRT.

An engine is anything with the model's own `remember` and `denoise`; the model itself is the eager
one. Engines prepare a pass when they first meet it at a fill of the memory: whoever rehearses all
fills beforehand never waits for one again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextKV
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT

EAGER, COMPILED, TENSORRT = 'eager', 'compiled', 'tensorrt'
ENGINE_CHOICES = f'{EAGER}, {COMPILED} or {TENSORRT}:FOLDER'

# Passes differ by fill, by new frames and by coupled or decoupled flow times; the largest window
# in use has 9 frames. Beyond this many variants something else varies that should not.
RECOMPILE_LIMIT = 64
WARMUP_RUNS = 2  # runs before a recording: kernels choose themselves, allocators settle


class ExecutionEngine(Protocol):
    """Run a pass over a memory; arguments and results as in `VideoActionDiT`."""

    def append_kv(
        self,
        video: Tensor,
        clean: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache,
        condition: Tensor | None = None,
    ) -> Any: ...

    def denoise(
        self,
        video: Tensor,
        action: Tensor,
        state: Tensor,
        video_time: FlowTimeEmbedding,
        action_time: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...


def make_engine(choice: str, model: VideoActionDiT) -> ExecutionEngine:
    """Make the engine that `choice` names for a model, which it may compile in place.

    Raises ValueError for a choice that is none, or that this machine cannot run.
    """
    kind, _, folder = choice.partition(':')
    if kind == TENSORRT and folder:
        from wam_policy.model.execution.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(model, Path(folder))
    if choice == EAGER:
        return model
    if choice == COMPILED:
        compile_blocks(model)
        return CudaGraphEngine(model, CudaGraphCapture()) if model.device.type == 'cuda' else model
    raise ValueError(f'engine {choice!r}: want {ENGINE_CHOICES}')


def compile_blocks(model: VideoActionDiT, backend: str = 'inductor') -> VideoActionDiT:
    """Compile the blocks of a model in place, one graph per shape and fill, and return it.

    All blocks share their graphs: forty layers compile as fast as one. Sizes are constants of a
    graph, because a fill that may vary costs attention kernels their best shapes.
    """
    for block in model.layers:
        block.compile(
            backend=backend, fullgraph=True, dynamic=False, recompile_limit=RECOMPILE_LIMIT
        )
    return model


# ---- recordings: a pass as one launch


class GraphCapture(Protocol):
    """Turn a run into a replay that writes its results where the run did."""

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]: ...


class CudaGraphCapture:
    """Record CUDA graphs that share one memory pool: they never replay side by side."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARMUP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = run()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return results

        return replay


class CapturedGraph(NamedTuple):
    """One pass at one fill: where its inputs go, and how it runs again."""

    inputs: list[Tensor]
    replay: Callable[[], Sequence[Tensor]]
    cache: KVCache  # kept alive: the replay reads and writes its buffers


class CudaGraphEngine:
    """Record every pass at every fill of every memory when it first runs, replay it after.

    A replay reads fixed addresses. Inputs are copied there each time; a context, which is large
    and changes with the instruction, only when it is another one.
    """

    def __init__(self, engine: ExecutionEngine, capture: GraphCapture) -> None:
        self._engine, self._capture = engine, capture
        self._graphs: dict[tuple[str, int, int, int], CapturedGraph] = {}
        self._contexts: dict[int, StaticContext] = {}

    def append_kv(
        self,
        video: Tensor,
        clean: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache,
        condition: Tensor | None = None,
    ) -> None:
        def run(inputs: list[Tensor], fixed: list[ContextKV]) -> Sequence[Tensor]:
            video, embedding, modulation, wave, cos, sin, *condition = inputs
            self._engine.append_kv(
                video,
                FlowTimeEmbedding(embedding, modulation, wave),
                Rotation(cos, sin),
                fixed,
                cache,
                *condition,
            )
            return ()

        given = [video, *clean, *rotation, *([] if condition is None else [condition])]
        self._replay('remember', given, context, cache, video.shape[2], run)

    def denoise(
        self,
        video: Tensor,
        action: Tensor,
        state: Tensor,
        video_time: FlowTimeEmbedding,
        action_time: FlowTimeEmbedding,
        rotation: Rotation,
        context: list[ContextKV],
        cache: KVCache,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        shared = video_time is action_time  # the model treats one object as one time

        def run(inputs: list[Tensor], fixed: list[ContextKV]) -> Sequence[Tensor]:
            video, action, state, cos, sin, e1, m1, w1, e2, m2, w2, *condition = inputs
            first = FlowTimeEmbedding(e1, m1, w1)
            second = first if shared else FlowTimeEmbedding(e2, m2, w2)
            return self._engine.denoise(
                video, action, state, first, second, Rotation(cos, sin), fixed, cache, *condition
            )

        given = [
            video,
            action,
            state,
            *rotation,
            *video_time,
            *action_time,
            *([] if condition is None else [condition]),
        ]
        key = 'coupled' if shared else 'decoupled'
        v_video, v_action = self._replay(key, given, context, cache, video.shape[2], run)
        # copies: the sampler keeps velocities over steps, and another replay overwrites these
        return v_video.clone(), v_action.clone()

    def _replay(
        self,
        kind: str,
        arguments: list[Tensor],
        context: list[ContextKV],
        cache: KVCache,
        frames: int,
        run: Callable[[list[Tensor], list[ContextKV]], Sequence[Tensor]],
    ) -> Sequence[Tensor]:
        fixed = self._contexts.setdefault(id(cache), StaticContext())
        if fixed.update(context):
            self._graphs = {
                key: kept for key, kept in self._graphs.items() if kept.cache is not cache
            }
        key = (kind, id(cache), cache.frames, frames)
        recording = self._graphs.get(key)
        if recording is None:
            inputs = [x.clone() for x in arguments]
            layers = fixed.layers
            replay = self._capture(lambda: run(inputs, layers))
            recording = self._graphs[key] = CapturedGraph(inputs, replay, cache)
        else:
            for kept, new in zip(recording.inputs, arguments, strict=True):
                kept.copy_(new)
        return recording.replay()


class StaticContext:
    """Hold one memory's context at addresses that do not change while its shapes do not."""

    def __init__(self) -> None:
        self.layers: list[ContextKV] = []
        self._current: list[ContextKV] | None = None

    def update(self, context: list[ContextKV]) -> bool:
        """Take over a context's values; True if they had to get other addresses."""
        if context is self._current:
            return False
        self._current = context
        new, old = flatten_context(context), flatten_context(self.layers)
        if [x.shape for x in new] == [x.shape for x in old]:
            for kept, value in zip(old, new, strict=True):
                kept.copy_(value)
            return False
        self.layers = [clone_layer(layer) for layer in context]
        return True


def flatten_context(context: list[ContextKV]) -> list[Tensor]:
    """List all tensors of a context, layer by layer: text keys, values, then the image's."""
    return [x for layer in context for pair in layer if pair is not None for x in pair]


def clone_layer(layer: ContextKV) -> ContextKV:
    text, image = (None if pair is None else (pair[0].clone(), pair[1].clone()) for pair in layer)
    return ContextKV(cast('tuple[Tensor, Tensor]', text), image)
