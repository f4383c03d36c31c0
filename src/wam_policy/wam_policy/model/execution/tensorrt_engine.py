"""Build a TensorRT plan from an exported pass and run it behind the engine interface.

Experimental: never run on a GPU by this project.

Denoising, which every query repeats, runs from the plan; append_kv, once per block, runs in torch.
A plan reads the memory of the cache directly: each call binds addresses and lengths, nothing is
stacked, cast or copied.
"""

from __future__ import annotations

import importlib
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wam_policy.model.execution import onnx_export
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import ContextKV
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT

PLAN_FILE, GRAPH_FILE, BUILD_INFO_FILE = 'denoise.plan', 'denoise.onnx', 'engine.json'
WORKSPACE_BYTES = 8 << 30


def import_tensorrt() -> Any:
    """Import tensorrt; ValueError names what is missing."""
    if not torch.cuda.is_available():
        raise ValueError('TensorRT needs an NVIDIA GPU: torch finds none on this machine')
    try:
        return importlib.import_module('tensorrt')
    except ImportError as error:
        raise ValueError(
            'tensorrt is not installed here: .venv/bin/python -m pip install '
            f'tensorrt, in a version for CUDA {torch.version.cuda}'
        ) from error


def profile_lengths(config: ModelConfig) -> tuple[int, int, int]:
    """Return the minimum, usual and maximum number of cached tokens of a query."""
    frame = config.frame_tokens
    usual = config.window_frames - config.frames_per_block
    return frame, usual * frame, config.window_frames * frame


def build_engine(model: VideoActionDiT, folder: Path, precision: str, trt: Any = None) -> Path:
    """Export the denoising pass of a model and build its plan for this GPU; return the folder.

    The plan's types are the model's own (strongly typed), 8-bit linears included. Raises
    ValueError where TensorRT cannot run or rejects the graph.
    """
    trt = trt or import_tensorrt()
    folder.mkdir(parents=True, exist_ok=True)
    onnx_export.export_pass(model, 'denoise', folder / GRAPH_FILE)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(folder / GRAPH_FILE)):
        raise ValueError(f'TensorRT rejects the graph: {parser.get_error(0)}')
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    c = model.config
    for name in onnx_export.kv_names(c, ''):
        profile.set_shape(
            name, *((1, length, c.heads, c.head_dim) for length in profile_lengths(c))
        )
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ValueError('TensorRT could not build the plan: see its messages above')
    (folder / PLAN_FILE).write_bytes(plan)
    build_info = {
        'model': c.to_dict(),
        'dtype': str(model.dtype),
        'precision': precision,
        'tensorrt': trt.__version__,
    }
    (folder / BUILD_INFO_FILE).write_text(json.dumps(build_info, indent=1) + '\n')
    return folder


def _current_stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def _map_plan(path: Path) -> mmap.mmap:
    """Map a plan, which the runtime then reads once from the file: 14B has 33 GB of it.

    Raises ValueError if it does not fit beside the weights that torch keeps for append_kv.
    """
    free, total = torch.cuda.mem_get_info()
    size = path.stat().st_size
    if size > free:
        raise ValueError(
            f'{path} has {size / 1e9:.1f} GB, the device {free / 1e9:.1f} GB free of '
            f'{total / 1e9:.1f}: torch keeps its own weights beside the plan; use a larger device'
        )
    with path.open('rb') as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class TensorRTEngine:
    """Run denoising passes from a plan; ValueError if it does not fit the model or the GPU."""

    def __init__(
        self,
        model: VideoActionDiT,
        folder: Path,
        trt: Any = None,
        stream: Callable[[], int] = _current_stream,
    ) -> None:
        for name in (PLAN_FILE, BUILD_INFO_FILE):
            if not (folder / name).is_file():
                raise ValueError(
                    f'{folder} holds no engine ({name} is missing): '
                    'build one with ./wam engine build'
                )
        build_info = json.loads((folder / BUILD_INFO_FILE).read_text())
        if ModelConfig.from_dict(build_info['model']) != model.config:
            raise ValueError(f'{folder} was built for a model of other sizes: build it again')
        if build_info['dtype'] != str(model.dtype):
            raise ValueError(
                f'{folder} was built for {build_info["dtype"]}, the model is '
                f'{model.dtype}: use that dtype or build it again'
            )
        trt = trt or import_tensorrt()
        self.append_kv, self._stream = model.append_kv, stream
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(_map_plan(folder / PLAN_FILE))
        if self._engine is None:
            raise ValueError(
                f'{folder / PLAN_FILE} is for another GPU or TensorRT version: build it again'
            )
        self._execution_context = self._engine.create_execution_context()
        self._inputs = onnx_export.input_names(model.config, 'denoise')
        self._outputs = onnx_export.output_names(model.config, 'denoise')

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
        given = onnx_export.make_denoise_inputs(
            video, action, state, video_time, action_time, rotation, context, cache, condition
        )
        bound = [x.contiguous() for x in given.flat_tensors]
        for name, x in zip(self._inputs, bound, strict=True):
            self._execution_context.set_input_shape(name, tuple(x.shape))
            self._execution_context.set_tensor_address(name, x.data_ptr())
        velocities = torch.empty_like(video), torch.empty_like(action)
        for name, x in zip(self._outputs, velocities, strict=True):
            self._execution_context.set_tensor_address(name, x.data_ptr())
        if not self._execution_context.execute_async_v3(self._stream()):
            raise RuntimeError('TensorRT failed to run the pass: see its messages above')
        return velocities
