"""The TensorRT engine against a stand-in that runs the same graph from the same addresses."""

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model.toy_network import CONFIG, make_model
from wam_policy.model.execution import engines, tensorrt_engine
from wam_policy.model.execution.tensorrt_engine import TensorRTEngine
from wam_policy.model.network.cfg import CfgBranch, PositionTimeCache
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler

onnxruntime = pytest.importorskip('onnxruntime')


class FakeExecutionContext:
    """Read inputs at addresses, write outputs to addresses, as an execution context does."""

    def __init__(self, graph: str) -> None:
        self.session = onnxruntime.InferenceSession(graph)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        feed = {}
        for name, shape in self.shapes.items():
            raw = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
            feed[name] = np.frombuffer(raw, np.float32).reshape(shape)
        outputs = [x.name for x in self.session.get_outputs()]
        for name, value in zip(outputs, self.session.run(None, feed), strict=True):
            ctypes.memmove(self.addresses[name], value.ctypes.data, value.nbytes)
        return True


class FakeTensorRT(SimpleNamespace):
    """Keep what a builder is told; a plan is the path of its graph."""

    def __init__(self) -> None:
        super().__init__(__version__='0', shapes={}, error='', flags=None)
        self.Logger = lambda level: None
        self.Logger.WARNING = 1
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
        nothing = SimpleNamespace(
            set_memory_pool_limit=lambda *_: None, add_optimization_profile=lambda _: None
        )
        profile = SimpleNamespace(
            set_shape=lambda name, *shapes: self.shapes.update({name: shapes})
        )
        self.Builder = lambda logger: SimpleNamespace(
            create_network=lambda flags: setattr(self, 'flags', flags),
            create_builder_config=lambda: nothing,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, settings: self.graph.encode(),
        )
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse_from_file=self.parse, get_error=lambda i: self.error
        )
        self.Runtime = lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda plan: SimpleNamespace(
                create_execution_context=lambda: FakeExecutionContext(plan[:].decode())
            )
        )

    def parse(self, graph: str) -> bool:
        self.graph = graph
        return not self.error


@pytest.fixture(autouse=True)
def free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (10**6, 10**6))


@torch.inference_mode()
def velocities(made: VideoActionDiT, run_by: engines.ExecutionEngine) -> list[Tensor]:
    """Ask at three fills, with one time for both modalities and with two."""
    torch.manual_seed(1)
    branch, c = CfgBranch(made, run_by, PositionTimeCache(made)), CONFIG
    branch.set_text(torch.randn(1, c.text_len, c.text_dim))
    found: list[Tensor] = []
    for frames in (1, 2, 2):
        branch.append_kv(torch.randn(1, c.latent_channels, frames, *c.latent_size), None)
        branch.cache.commit(frames)
        velocity = branch.make_velocity_fn(torch.randn(1, 1, c.state_dim), None)
        noise = sampler.draw_noise(
            3,
            (1, c.latent_channels, 2, *c.latent_size),
            (1, c.actions_per_block, c.action_dim),
            torch.float32,
            torch.device('cpu'),
        )
        found += [*velocity(*noise, 900, 900), *velocity(*noise, 900, 400)]
    return found


def test_a_built_engine_answers_as_torch_does(tmp_path: Path) -> None:
    made, trt = make_model(), FakeTensorRT()
    tensorrt_engine.build_engine(made, tmp_path, 'fp32', trt)
    assert trt.flags == 1 << 1
    frame = CONFIG.frame_tokens
    assert set(trt.shapes) == {f'{part}.{i}' for part in ('keys', 'values') for i in (0, 1)}
    assert all(
        [shape[1] for shape in shapes] == [frame, 7 * frame, 9 * frame]
        for shapes in trt.shapes.values()
    )
    run_by = TensorRTEngine(made, tmp_path, trt, stream=lambda: 0)
    for got, want in zip(velocities(made, run_by), velocities(made, made), strict=True):
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()


def test_an_engine_of_another_model_is_refused(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    with pytest.raises(ValueError, match='holds no engine .denoise.plan is missing'):
        TensorRTEngine(make_model(), tmp_path, trt)
    tensorrt_engine.build_engine(make_model(), tmp_path, 'fp32', trt)
    with pytest.raises(ValueError, match=r'built for torch.float32, the model is torch.bfloat16'):
        TensorRTEngine(make_model().to(torch.bfloat16), tmp_path, trt)
    facts = json.loads((tmp_path / 'engine.json').read_text())
    facts['model']['layers'] = 3
    (tmp_path / 'engine.json').write_text(json.dumps(facts))
    with pytest.raises(ValueError, match='other sizes'):
        TensorRTEngine(make_model(), tmp_path, trt)


def test_a_plan_that_does_not_fit_beside_the_weights_is_refused(tmp_path, monkeypatch) -> None:
    made, trt = make_model(), FakeTensorRT()
    tensorrt_engine.build_engine(made, tmp_path, 'fp32', trt)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (4, 8))
    with pytest.raises(ValueError, match='torch keeps its own weights beside the plan'):
        TensorRTEngine(made, tmp_path, trt)


def test_a_graph_that_is_not_taken_says_why(tmp_path: Path) -> None:
    trt = FakeTensorRT()
    trt.error = 'no such operator'
    with pytest.raises(ValueError, match='no such operator'):
        tensorrt_engine.build_engine(make_model(), tmp_path, 'fp32', trt)
    assert not (tmp_path / 'denoise.plan').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='TensorRT needs an NVIDIA GPU'):
        tensorrt_engine.build_engine(make_model(), tmp_path, 'fp32')
