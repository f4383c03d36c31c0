"""Select how the two passes of inference run: eager, compiled, as CUDA graphs, or by TensorRT.

Experimental: CUDA graphs and TensorRT were never run on a GPU by this project.

An engine has the `append_kv` and `denoise` of the model; the model itself is the eager engine.
Engines prepare a pass when it first runs at a fill of the cache: warm up all fills before
measuring or serving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from wam_policy.model.execution import packed_linear
from wam_policy.model.execution.quantization import QuantizedLinear
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextKV, FusedLinear
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT

EAGER, COMPILED, TENSORRT = 'eager', 'compiled', 'tensorrt'
ENGINE_CHOICES = f'{EAGER}, {COMPILED} or {TENSORRT}:FOLDER'

# Passes differ by fill, by new frames and by coupled or decoupled flow times; the largest window
# in use has 9 frames. Beyond this many variants something else varies that should not.
RECOMPILE_LIMIT = 64
BACKEND: str | Callable[..., Any] = 'inductor'  # of torch.compile
WARMUP_RUNS = 2  # before a capture: kernels are selected and allocations done


class ExecutionEngine(Protocol):
    """Run passes on a cache; arguments and results as in `VideoActionDiT`."""

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


def make_engine(
    choice: str,
    model: VideoActionDiT,
    *,
    pack_weights: bool = True,
    vae: nn.Module | None = None,
) -> ExecutionEngine:
    """Make the engine that `choice` names for a model, which it may compile or pack in place.

    A compiled engine compiles the autoencoder `vae`, too, if one is given.
    Raises ValueError for an unknown choice, or one that this machine cannot run.
    """
    kind, _, folder = choice.partition(':')
    if kind == TENSORRT and folder:
        from wam_policy.model.execution.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(model, Path(folder))
    if choice == EAGER:
        if pack_weights and packed_linear.can_pack(model):
            packed_linear.pack_linears(model)
        fuse_projections(model)
        # not for compiled graphs: they would be compiled again for every length of instruction
        model.folds_text_padding = model.device.type == 'cpu' and model.dtype == torch.float32
        return model
    if choice == COMPILED:
        fuse_projections(model)
        compile_blocks(model)
        if vae is not None:
            compile_autoencoder(vae)
        return CudaGraphEngine(model, CudaGraphCapture()) if model.device.type == 'cuda' else model
    raise ValueError(f'engine {choice!r}: want {ENGINE_CHOICES}')


def fuse_projections(model: VideoActionDiT) -> None:
    """Compute queries, keys and values of the self-attention by one product from now on.

    One product of 15,360 columns fills a GPU better than three of 5,120: with 1785 rows, three
    products take three rounds of tiles each for work that fits in a little more than two.
    """
    for block in model.layers:
        kinds = {type(part) for part in (block.self_attn.q, block.self_attn.k, block.self_attn.v)}
        if kinds == {nn.Linear}:
            block.self_attn.fuse_projections(FusedLinear)
        elif kinds == {QuantizedLinear}:
            block.self_attn.fuse_projections(QuantizedLinear.join)


def compile_blocks(model: VideoActionDiT, backend: str | None = None) -> VideoActionDiT:
    """Compile the blocks of a model in place, one graph per shape and fill, and return it.

    All blocks share their graphs: 40 layers compile as fast as one. Shapes are static, because
    attention kernels are slower with a dynamic length.
    """
    for block in model.layers:
        block.compile(
            backend=backend or BACKEND,
            fullgraph=True,
            dynamic=False,
            recompile_limit=RECOMPILE_LIMIT,
        )
    return model


def compile_autoencoder(vae: nn.Module) -> None:
    """Compile encoder and decoder of an autoencoder in place, one graph per kind of group.

    A Wan clip has three kinds each: the first frame, the group after it, and all later ones.
    Inductor's kernels only, no CUDA graph: its results are the context of the next group, which a
    replay would overwrite.
    """
    for name in ('net.encoder', 'net.decoder'):
        vae.get_submodule(name).compile(
            backend=BACKEND, fullgraph=True, dynamic=False, recompile_limit=RECOMPILE_LIMIT
        )


# ---- CUDA graphs: one launch per pass


class GraphCapture(Protocol):
    """Capture a function; the returned replay writes its results to the same tensors."""

    def __call__(self, run: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]: ...


class CudaGraphCapture:
    """Capture CUDA graphs that share one memory pool, as they never replay concurrently."""

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
        # thread_local: another thread (NCCL's watchdog, which queries events) would otherwise
        # invalidate a capture that it has nothing to do with
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode='thread_local'):
            results = run()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return results

        return replay


class CapturedGraph(NamedTuple):
    """Hold the input tensors and the replay of one pass at one fill."""

    inputs: list[Tensor]
    replay: Callable[[], Sequence[Tensor]]
    cache: KVCache  # keeps the buffers that the replay uses


class CudaGraphEngine:
    """Capture each pass at each fill of each cache on its first run; replay it afterwards.

    Experimental: never run on a GPU by this project.

    A replay reads fixed addresses. Inputs are copied there each time; the context, which is large
    and changes with the instruction, only when it changed.
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
            video, embedding, modulation, features, cos, sin, *condition = inputs
            self._engine.append_kv(
                video,
                FlowTimeEmbedding(embedding, modulation, features),
                Rotation(cos, sin),
                fixed,
                cache,
                *condition,
            )
            return ()

        given = [video, *clean, *rotation, *([] if condition is None else [condition])]
        self._replay('append_kv', given, context, cache, video.shape[2], run)

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
        # one time for all actions, or one for each
        key = 'coupled' if shared else f'decoupled {action_time.embedding.shape[1]}'
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
        graph = self._graphs.get(key)
        if graph is None:
            inputs = [x.clone() for x in arguments]
            layers = fixed.layers
            replay = self._capture(lambda: run(inputs, layers))
            graph = self._graphs[key] = CapturedGraph(inputs, replay, cache)
        else:
            for kept, new in zip(graph.inputs, arguments, strict=True):
                kept.copy_(new)
        return graph.replay()


class StaticContext:
    """Hold the context of one cache at fixed addresses as long as its shapes stay the same."""

    def __init__(self) -> None:
        self.layers: list[ContextKV] = []
        self._current: list[ContextKV] | None = None

    def update(self, context: list[ContextKV]) -> bool:
        """Copy the values of a context; return True if the addresses changed."""
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
    """Return all tensors of a context by layer: text keys, values, image keys, values."""
    return [
        x
        for layer in context
        for pair in (layer.text, layer.image)
        if pair is not None
        for x in pair
    ]


def clone_layer(layer: ContextKV) -> ContextKV:
    text, image = (
        None if pair is None else (pair[0].clone(), pair[1].clone())
        for pair in (layer.text, layer.image)
    )
    return ContextKV(cast('tuple[Tensor, Tensor]', text), image)


def round_up(count: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `count`."""
    return -(-count // multiple) * multiple
