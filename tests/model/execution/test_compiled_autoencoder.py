"""A compiled session compiles its autoencoder, too: the same latents, nothing compiled later."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import checkpoint_folder
from wam_policy.model.encoders import device_constants
from wam_policy.model.encoders.wan_vae import Vae, VaeConfig
from wam_policy.model.execution import engines
from wam_policy.model.robot_policy import InferenceOptions, Policy
from wam_policy.workers import run_worker

WINDOW_FRAMES = 17  # the first one and two blocks of two groups


class GraphCounter:
    """Stand for a compiler: keep each graph and run it as it is."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphCounter]:
    torch._dynamo.reset()
    counter = GraphCounter()
    monkeypatch.setattr(engines, 'BACKEND', counter)
    yield counter
    torch._dynamo.reset()


def make_vae(residual: bool) -> Vae:
    torch.manual_seed(3)
    patch = 2 if residual else 1
    return Vae(VaeConfig(4, 8, 8, 1, residual, patch, (0.1,) * 4, (0.9,) * 4)).requires_grad_(
        False
    )


def run_window(vae: Vae, seed: int = 0, device: str = 'cpu') -> tuple[Tensor, Tensor]:
    """Encode a window block by block and decode its latents."""
    torch.manual_seed(seed)
    video = torch.rand(1, 3, WINDOW_FRAMES, 16 * vae.config.patch, 16 * vae.config.patch)
    video = video.to(device) * 2 - 1
    latents, state = vae.encode_first_frame(video[:, :, :1])
    pieces = [latents]
    for start in range(1, WINDOW_FRAMES, 8):
        latents, state = vae.encode_next_frames(state, video[:, :, start : start + 8])
        pieces.append(latents)
    whole = torch.cat(pieces, dim=2)
    return whole, vae.decode(whole)


@pytest.mark.slow
@pytest.mark.parametrize('residual', [False, True])
def test_a_compiled_autoencoder_gives_the_same_and_compiles_in_the_first_window(
    residual: bool, compiler: GraphCounter
) -> None:
    vae, plain = make_vae(residual), make_vae(residual)
    engines.compile_autoencoder(vae)
    with torch.inference_mode():
        for seed in range(2):
            for got, want in zip(run_window(vae, seed), run_window(plain, seed), strict=True):
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
            # three kinds of groups in each direction, in one piece each
            assert len(compiler.graphs) == 6, f'window {seed}'


@pytest.mark.slow
def test_a_compiled_autoencoder_traces_for_cuda(compiler: GraphCounter) -> None:
    """Neither breaks nor host values: what graph capture and an asynchronous stream need."""
    make_vae(False)  # the import of diffusers makes tensors, which cannot be on that device
    device_constants._make_constant.cache_clear()
    with FakeTensorMode(), torch.inference_mode():
        with torch.device('cuda:0'):
            vae = make_vae(False)
        engines.compile_autoencoder(vae)
        latents, video = run_window(vae, device='cuda:0')
    device_constants._make_constant.cache_clear()  # these hold no values
    assert latents.device.type == video.device.type == 'cuda'
    assert len(compiler.graphs) == 6
    for graph in compiler.graphs:
        for node in graph.graph.nodes:
            assert node.target not in ('item', 'cpu', 'tolist', 'numpy'), node.format_node()
            value = node.meta.get('example_value')
            if isinstance(value, Tensor):
                assert value.device.type == 'cuda', node.format_node()


@pytest.mark.slow
def test_the_rehearsal_of_a_compiled_session_covers_encoder_and_decoder(
    compiler: GraphCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    # blocks have their own test; here they run as they are
    monkeypatch.setattr(engines, 'compile_blocks', lambda model: model)
    loaded = checkpoint_folder.load('preset:tiny', torch.device('cpu'), torch.float32)
    robot = embodiment.load_embodiment('yam')
    policy = Policy(loaded, robot, InferenceOptions(steps=1, guidance=1.0, engine='compiled'))
    run_worker.warm_up_full_window(policy, seed=1)
    rehearsed = len(compiler.graphs)
    assert rehearsed, 'the autoencoder is not compiled'
    policy.reset('wave')
    random = np.random.default_rng(0)
    for block in range(policy.geometry.window_blocks + 2):
        count = policy.geometry.frames_per_block if block else 1
        gray = run_worker.make_gray_frames(policy, count)
        policy.commit({key: random.integers(0, 256, x.shape, np.uint8) for key, x in gray.items()})
        policy.query(robot.home_positions(robot.observed), block)
        policy.decode_prediction()
    assert len(compiler.graphs) == rehearsed, 'compiled again while serving'
