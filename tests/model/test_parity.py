"""The reference's own numbers, computed again by the public modules.

Every case in the folder WAM_PARITY_DIR runs (default: `shared/parity` beside the checkout); a
table of errors is printed at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from wam_policy.model.checkpoint import model_spec, tensor_keymap
from wam_policy.model.encoders import wan_vae
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import ModelConfig
from wam_policy.model.network.video_action_dit import FlowTimeEmbedding, VideoActionDiT
from wam_policy.model.released_session import ReleasedSession
from wam_policy.model.sampling.noise_schedule import (
    decouple_schedule,
    make_training_sigmas,
    make_training_weights,
    make_unipc_schedule,
)
from wam_policy.model.sampling.sampler import SamplingConfig, SimilaritySkipper, UniPCSolver
from wam_policy.model.streaming_session import InferenceContext

PARITY = Path(
    os.environ.get('WAM_PARITY_DIR', Path(__file__).resolve().parents[3] / 'shared' / 'parity')
)
REL_MODULE, REL_LOOP, ABS_BF16, COS_BF16 = 5e-5, 1e-4, 5e-2, 0.9995
pytestmark = pytest.mark.skipif(
    not PARITY.is_dir(), reason=f'no reference numbers at {PARITY} (set WAM_PARITY_DIR)'
)
ERRORS: list[str] = []


def cases(prefix: str) -> list[str]:
    return sorted(p.parent.name for p in PARITY.glob(f'{prefix}*/case.json'))


def case(name: str) -> dict:
    """Read case.json with every {'tensor': key} replaced by its tensor."""
    folder = PARITY / name
    tensors = {p.stem: load_file(p) for p in folder.glob('*.safetensors')}

    def filled(value: object, store: dict[str, Tensor]) -> object:
        if isinstance(value, dict):
            if set(value) == {'tensor'}:
                return store[value['tensor']]
            return {k: filled(v, store) for k, v in value.items()}
        return [filled(v, store) for v in value] if isinstance(value, list) else value

    raw = json.loads((folder / 'case.json').read_text())
    return {k: filled(v, tensors.get(k, {})) for k, v in raw.items()}


def config_of(c: dict) -> ModelConfig:
    """Read the case's sizes the way a released config.json is read."""
    rows, columns = (wan_vae.WAN21.stride * side for side in c['latent'])
    head = {
        'diffusion_model_cfg': c,
        'max_action_dim': c['action_dim'],
        'max_state_dim': c['max_state_dim'],
        'num_frame_per_block': c['num_frame_per_block'],
    }
    canvas = {'arrangement': None, 'tile': (rows // 2, columns // 2), 'crop': 1.0, 'size': None}
    content = {'action_head_cfg': {'config': head}, 'wam': {'canvas': canvas}}
    return model_spec.parse_spec(content).model


def model_of(config: dict, weights: dict[str, Tensor], dtype: torch.dtype) -> VideoActionDiT:
    """Fill a model through the map of released names, strictly."""
    model = VideoActionDiT(config_of(config)).requires_grad_(False)
    parameters, entries = dict(model.named_parameters()), tensor_keymap.map_identity(model)
    assert {entry.name for entry in entries} == set(weights)
    for entry in entries:
        parts = tensor_keymap.split_tensor(weights[entry.name], entry, parameters)
        for name, part in zip(entry.targets, parts, strict=True):
            parameters[name].copy_(part)
    return model.to(dtype).eval()


def check(label: str, ours: Tensor, theirs: Tensor, rel: float = REL_MODULE) -> None:
    """Hold fp32 to `rel` of the largest output, bf16 to its absolute error and cosine."""
    assert ours.shape == theirs.shape, label
    a, b = ours.double(), theirs.double()
    worst = (a - b).abs().max().item()
    relative = worst / b.abs().max().item()
    cosine = torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()
    ERRORS.append(f'{label:52s} abs {worst:8.1e}  rel {relative:8.1e}  cos {cosine:.7f}')
    if theirs.dtype == torch.bfloat16:
        assert worst <= ABS_BF16 and cosine > COS_BF16, ERRORS[-1]
    else:
        assert relative <= rel, ERRORS[-1]


@pytest.fixture(scope='module', autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    capture = request.config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        print('\n' + '\n'.join(ERRORS))


# ---- the transformer


class ReferenceReplay:
    """Call a DiT in the order of the reference's toy episode."""

    def __init__(self, model: VideoActionDiT, inputs: dict, want: dict, label: str) -> None:
        self.model, self.inputs, self.want, self.label = model, inputs, want, label
        self.context = model.embed_context(inputs['context'], inputs['clip_feature'])
        batch = inputs['real'].shape[0]
        self.cache = KVCache(model.config, batch, model.device, model.dtype)

    def embed_flow_time(self, t: int) -> FlowTimeEmbedding:
        return self.model.embed_flow_time(torch.tensor([[float(t)]]))

    def append_kv(self, name: str, frames: int) -> None:
        clean, start = self.embed_flow_time(0), self.cache.frames
        at = slice(start, start + frames)
        rotation = self.model.compute_video_rotation(start, frames)
        hidden = self.model.append_kv(
            self.inputs['real'][:, :, at],
            clean,
            rotation,
            self.context,
            self.cache,
            self.inputs['ys'][:, :, at],
        )
        # the reference also runs the end of the last layer, which nothing reads
        memory = self.cache.open_layers(frames)[-1]
        hidden = self.model.layers[-1](
            hidden, clean.modulation, rotation, self.context[-1], memory
        )
        self.cache.commit(frames)
        if name in self.want:
            video = self.model.decode_video_velocity(hidden, clean.embedding)
            check(f'{self.label}/{name}/video', video, self.want[name]['video'])
            kv = torch.stack(self.cache.snapshot(), dim=1).transpose(3, 4)
            check(f'{self.label}/{name}/kv', kv, self.want[name]['kv'])

    def denoise(self, name: str, i: int, t: int, action_t: int) -> None:
        n, start = self.model.config.frames_per_block, self.cache.frames
        ys = self.inputs['ys']
        condition = ys[:, :, start : start + n] if start + n <= ys.shape[2] else ys[:, :, -n:]
        action_time = self.embed_flow_time(action_t)
        video, action = self.model.denoise(
            self.inputs['noise'][i],
            self.inputs['noise_action'][i],
            self.inputs['state'][i],
            action_time if t == action_t else self.embed_flow_time(t),
            action_time,
            self.model.compute_block_rotation(start),
            self.context,
            self.cache,
            condition,
        )
        check(f'{self.label}/{name}/video', video, self.want[name]['video'])
        check(f'{self.label}/{name}/action', action, self.want[name]['action'])


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('name', cases('dit_'))
def test_dit(name: str, precision: str) -> None:
    dtype = {'fp32': torch.float32, 'bf16': torch.bfloat16}[precision]
    data = case(name)
    model = model_of(data['config'], data['weights'], dtype)

    def cast(value: object) -> object:
        return [v.to(dtype) for v in value] if isinstance(value, list) else value.to(dtype)

    inputs = {k: cast(v) for k, v in data['inputs'].items() if 'timestep' not in k}
    want = data[f'outputs_{precision}']
    assert model.config.window_frames == want['cfg_derived']['local_attn_size']
    replay = ReferenceReplay(model, inputs, want, f'{name} {precision}')
    block = model.config.frames_per_block
    with torch.inference_mode():
        replay.append_kv('prefill', 1)
        replay.denoise('chunk1_t999', 0, 999, 999)
        replay.denoise('chunk1_t833_a500', 0, 833, 500)
        replay.append_kv('update1', block)
        replay.denoise('chunk2_t755', 1, 755, 755)
        replay.append_kv('update2', block)
        replay.denoise('chunk3_t66', 2, 66, 66)
        replay.append_kv('update3', block)
        replay.append_kv('update4', block)
        replay.denoise('trunc_t400', 3, 400, 400)
    prediction = model(
        inputs['real'],
        inputs['train_noisy'],
        data['inputs']['train_timestep'],
        inputs['train_action'],
        data['inputs']['train_timestep_action'],
        inputs['train_state'],
        replay.context,
        inputs['ys'],
    )
    check(f'{name} {precision}/train/video', prediction.video, want['train']['video'])
    check(f'{name} {precision}/train/action', prediction.action, want['train']['action'])


# ---- schedules and skipping


def test_schedules() -> None:
    data = case('schedules')['data']
    walk = make_unipc_schedule(16, 5.0)
    check('schedules/sigmas', torch.tensor(walk.sigmas), data['sigmas'])
    assert list(walk.timesteps) == data['timesteps'].tolist()
    flash = data['decoupled_0.8']
    late = decouple_schedule(walk, 0.8)
    check('schedules/decoupled/sigmas', torch.tensor(late.sigmas), flash['sigmas'])
    assert list(late.timesteps) == flash['timesteps'].tolist()
    sigmas = make_training_sigmas(5.0)
    check('schedules/train/sigmas', sigmas, data['train']['sigmas'])
    check('schedules/train/timesteps', 1000 * sigmas, data['train']['timesteps'])
    check('schedules/train/weights', make_training_weights(sigmas), data['train']['weights'])


@pytest.mark.parametrize('precision', ['torch.float32', 'torch.bfloat16'])
def test_unipc_trajectory(precision: str) -> None:
    want = case('schedules')['data']['traj'][precision]
    solver = UniPCSolver(make_unipc_schedule(16, 5.0), want['x'][0])
    for i, velocity in enumerate(want['v']):
        solver.step(velocity)
        check(f'schedules/{precision}/x[{i + 1}]', solver.x, want['x'][i + 1])


def test_skip_decisions() -> None:
    for script in case('skip_decisions')['data']:
        similarities, gate = iter(script['sims']), SimilaritySkipper()
        assert [
            gate.should_evaluate(lambda s=similarities: next(s)) for _ in script['run']
        ] == script['run']


# ---- the policy loop


class ToyEncoders:
    """Encode as the parity folder's README says; prompts are keys of `texts`."""

    def __init__(self, toys: dict, texts: dict[str, tuple[Tensor, Tensor]]) -> None:
        self.toys, self.texts = toys, texts
        self.clips: list[list[int]] = []
        self.images = 0

    def tokenizer(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        return self.texts[prompts[0]]

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        rows = self.toys['E_TXT'][ids].bfloat16().float()
        return rows * (torch.arange(ids.shape[1]) < mask.sum())[None, :, None]

    def encode_image(self, frame: Tensor) -> Tensor:
        self.images += 1
        return (frame.mean((2, 3)) @ self.toys['M_CLIP'])[..., None] * self.toys['V_CLIP']

    def encode_frames(self, video: Tensor) -> Tensor:
        self.clips.append(list(video.shape))
        groups = [video[:, :, :1], *video[:, :, 1:].split(4, dim=2)]
        latents = torch.cat([group.mean(2, keepdim=True) for group in groups], dim=2)
        latents = latents.unflatten(4, (-1, 8)).unflatten(3, (-1, 8)).mean((4, 6))
        return torch.einsum('bcfhw,dc->bdfhw', latents, self.toys['M_VAE'])


class RecordingModel:
    """Pass on to a model; note each pass and bend the denoised video as `loop_dynamic` wants."""

    def __init__(self, model: VideoActionDiT, bend: tuple[Tensor, float] | None) -> None:
        self._model, self._bend = model, bend
        self.passes: list[dict] = []
        self._t = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def embed_flow_time(self, t: Tensor) -> FlowTimeEmbedding:
        time = self._model.embed_flow_time(t)
        self._t[id(time)] = int(t.item())
        return time

    def append_kv(self, video: Tensor, clean: FlowTimeEmbedding, *rest: object) -> Tensor:
        self._record_pass(video, clean, rest[2], None)
        return self._model.append_kv(video, clean, *rest)

    def denoise(
        self,
        video: Tensor,
        action: Tensor,
        state: Tensor,
        t: FlowTimeEmbedding,
        ta: FlowTimeEmbedding,
        *rest,
    ) -> tuple[Tensor, Tensor]:
        self._record_pass(video, t, rest[2], ta)
        video, action = self._model.denoise(video, action, state, t, ta, *rest)
        if self._bend:
            video = self._bend[0] + self._bend[1] * video
        return video, action

    def _record_pass(
        self, video: Tensor, t: FlowTimeEmbedding, cache: KVCache, ta: FlowTimeEmbedding | None
    ) -> None:
        self.passes.append(
            {
                'frames': video.shape[2],
                't': self._t[id(t)],
                'start': cache.frames,
                'action': ta is not None,
                'kv': cache.length,
                'ta': ta and self._t[id(ta)],
            }
        )


@pytest.mark.parametrize('name', cases('loop_'))
def test_loop(name: str) -> None:
    data = case(name)
    c, toys = data['config'], data['toys']
    weights = load_file(PARITY / 'dit_i2v' / 'weights.safetensors')
    model = RecordingModel(
        model_of(c, weights, torch.float32),
        (toys['D_C'], toys['D_S']) if c['dynamic'] else None,
    )
    recipe = SamplingConfig(
        steps=c['steps'],
        shift=c['shift'],
        guidance=c['cfg_scale'],
        evaluations=None if c['dynamic'] else c['evaluated_steps'],
        dynamic=c['dynamic'],
        video_final_noise=c['video_final_noise'] if c['decoupled'] else None,
    )
    texts: dict[str, tuple[Tensor, Tensor]] = {}
    for i, call in enumerate(data['calls']):
        inputs = call['inputs']
        texts[str(i)] = inputs['text'], inputs['text_attention_mask']
        texts['negative'] = inputs['text_negative'], inputs['text_attention_mask_negative']
    encoders = ToyEncoders(toys, texts)
    episode = InferenceContext(
        model,
        encoders,
        lambda frames: (frames.float() / 127.5 - 1).bfloat16().float().permute(0, 4, 1, 2, 3),
        recipe,
        now=lambda: 0.0,
        guided_video=True,
        noise_fn=lambda seed: (data['noise']['video'], data['noise']['action']),
    )
    session = ReleasedSession(episode, negative='negative')
    for i, call in enumerate(data['calls']):
        model.passes, encoders.clips, encoders.images = [], [], 0
        inputs, label = call['inputs'], f'{name}/{call["name"]}'
        result = session.step(inputs['images'][0], str(i), inputs['state'].bfloat16().float())
        check(f'{label}/action', result.actions[None], call['action'], REL_LOOP)
        check(f'{label}/video', result.video, call['video'], REL_LOOP)
        assert model.passes == call['evals'], label
        assert encoders.clips == [shape for shape, _ in call['vae']], label
        assert encoders.images == len(call['clip']), label
        assert session.start_frame == call['start_after'], label
