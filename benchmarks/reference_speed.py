"""Compare our passes with those of the released code on the same weights and the same work.

Needs a checkout of the released code (https://github.com/dreamzero0/dreamzero, commit ab790c1) and
einops: python benchmarks/reference_speed.py --reference DIR --json FILE
Both sides run in this process, in turn, on one CPU thread. CPU time is measured, so that other
load on the machine matters little; a ratio is the median over the rounds, its interval the range
without the first and the last where there are more than three. The passes run three times as many
rounds as the training step, which takes longer. The flash attention of the released code
is replaced by scaled_dot_product_attention, which is what ours calls. Outputs are compared first.
A chunk is the sum of its passes: the released code runs both branches in every evaluation and
commits within a call, ours commits apart from the query and omits the last unconditional pass.
`benchmarks/speed/speed_ups.py` measures each of our speed-ups against our code without it.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from benchmarks.random_session import IMAGE_TOKENS, make_random_model
from wam_policy.model.execution import engines
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.model_config import ModelConfig, get_preset
from wam_policy.model.network.video_action_dit import VideoActionDiT

CACHED_FRAMES = 7  # a full window: one frame and three blocks, before the predicted block
EVALUATIONS = (16, 8, 4, 1)
PASS_ROUNDS = 3  # for each of the training step
TRAINING_BLOCKS = 2
RATIO_COLUMNS = ('what', 'ours_ms', 'other_ms', 'ratio', 'low', 'high', 'rounds')
TEXT_TOKENS = 40  # of an instruction of a sentence; zeros behind them, as the encoder leaves
TOLERANCE = 2e-4  # absolute, float32, where kernels re-associate sums

Run = Callable[[], object]


def make_config(dim: int, layers: int) -> ModelConfig:
    """Return the 14B model at another width and depth, with a canvas of half its sides."""
    return replace(
        get_preset('dreamzero_14b'),
        dim=dim,
        heads=dim // 128,
        layers=layers,
        ffn_dim=dim * 27 // 10,
        latent_size=(22, 40),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables and write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--reference', type=Path, help='checkout of the released code')
    parser.add_argument('--dim', type=int, default=512)
    parser.add_argument('--layers', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--compiled', action='store_true', help='also with --engine compiled')
    parser.add_argument('--no-training', action='store_true')
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    c = make_config(chosen.dim, chosen.layers)
    model = make_random_model(c, torch.device('cpu'), torch.float32)
    work = make_work(c, torch.Generator().manual_seed(0))
    runs: dict[str, Run] = {}
    with torch.no_grad():
        for engine in (engines.EAGER, *([engines.COMPILED] if chosen.compiled else [])):
            runs |= make_served_passes(model, work, engine)
        if chosen.reference:
            released = load_reference(chosen.reference, model)
            runs |= make_reference_runs(released, work)
            errors = compare_outputs(runs)
            print(', '.join(f'{name} {error:.1e}' for name, error in errors.items()))
        seconds = time_runs(runs, PASS_ROUNDS * chosen.rounds)
    if not chosen.no_training:
        training = {
            'training step': make_training_step(model, work),
            'training step, recomputed': make_training_step(model, work, recompute=True),
        }
        if chosen.reference:
            training |= make_reference_training_runs(released, work)
        seconds |= time_runs(training, chosen.rounds)
    rows = [{'pass': name, 'ms': to_ms(taken)} for name, taken in seconds.items()]
    print(record.format_table(rows, ('pass', 'ms')))
    ratios = summarize(seconds)
    print(record.format_table(ratios, RATIO_COLUMNS))
    record.write_report(
        chosen.json,
        {
            'model': c.to_dict(),
            'threads': 1,
            'dtype': 'float32',
            'figure': 'median CPU time of the rounds, all runs in turn in each round',
            'text_tokens': TEXT_TOKENS,
            'torch': torch.__version__,
            'errors': errors if chosen.reference else None,
            'passes': rows,
            'ratios': ratios,
        },
    )
    return 0


# ---- the same work


@dataclass(frozen=True)
class Work:
    """Hold the inputs of both sides."""

    config: ModelConfig
    video: Tensor  # [1 channels frames_per_block rows columns], noisy
    clean: Tensor  # as video, of the block that is committed
    clip: Tensor  # [1 channels frames rows columns], of training
    action: Tensor
    state: Tensor
    text: Tensor
    image: Tensor
    condition: Tensor  # [1 condition_channels frames rows columns]
    keys: Tensor  # [layers 1 heads tokens head_dim], of the committed frames
    values: Tensor


def make_work(c: ModelConfig, generator: torch.Generator) -> Work:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    text = draw(1, c.text_len, c.text_dim)
    text[:, TEXT_TOKENS:] = 0
    frames, training = c.frames_per_block, 1 + TRAINING_BLOCKS * c.frames_per_block
    tokens = CACHED_FRAMES * c.frame_tokens
    return Work(
        c,
        draw(1, c.latent_channels, frames, *c.latent_size),
        draw(1, c.latent_channels, frames, *c.latent_size),
        draw(2, c.latent_channels, training, *c.latent_size),
        draw(1, TRAINING_BLOCKS * c.actions_per_block, c.action_dim),
        draw(1, TRAINING_BLOCKS * c.states_per_block, c.state_dim),
        text,
        draw(1, IMAGE_TOKENS, c.image_dim),
        draw(1, c.condition_channels, training, *c.latent_size),
        *(draw(c.layers, 1, c.heads, tokens, c.head_dim) for _ in range(2)),
    )


# ---- ours


def make_passes(model: VideoActionDiT, work: Work, variant: str = '') -> dict[str, Run]:
    """Return a denoising pass and the pass of a commit on a model, as it is."""
    c = work.config
    context = model.embed_context(work.text, work.image)
    cache = KVCache(c, 1, 'cpu', torch.float32)
    tokens = CACHED_FRAMES * c.frame_tokens
    cache.keys[..., :tokens, :], cache.values[..., :tokens, :] = work.keys, work.values
    cache.commit_temporary(CACHED_FRAMES)
    noisy, clean = (model.embed_flow_time(torch.full((1, 1), t)) for t in (900.0, 0.0))
    condition = work.condition[:, :, : c.frames_per_block]
    block_rotation = model.compute_block_rotation(CACHED_FRAMES)
    video_rotation = model.compute_video_rotation(CACHED_FRAMES, c.frames_per_block)
    action = work.action[:, : c.actions_per_block]
    state = work.state[:, : c.states_per_block]

    def denoise() -> object:
        return model.denoise(
            work.video,
            action,
            state,
            noisy,
            noisy,
            block_rotation,
            context,
            cache,
            condition,
        )

    def append() -> object:
        model.append_kv(work.clean, clean, video_rotation, context, cache, condition)
        written = slice(tokens, tokens + c.frames_per_block * c.frame_tokens)
        return cache.keys[..., written, :], cache.values[..., written, :]

    return {f'denoise{variant}': denoise, f'append_kv{variant}': append}


def make_served_passes(model: VideoActionDiT, work: Work, engine: str) -> dict[str, Run]:
    """Return the passes of a copy of a model by an engine, as workers run it."""
    served = make_random_model(work.config, torch.device('cpu'), torch.float32)
    served.load_state_dict(model.state_dict())
    engines.make_engine(engine, served)
    return make_passes(served, work, '' if engine == engines.EAGER else f', {engine}')


def make_training_step(
    model: VideoActionDiT, work: Work, *, skip: bool = True, recompute: bool = False
) -> Run:
    """Return our training step, forward and backward, with or without unused tokens."""
    c, frames = work.config, work.clip.shape[2]
    video_t = torch.full((1, frames - skip), 500.0)
    action_t = torch.full((1, work.action.shape[1]), 500.0)
    model.requires_grad_(True)

    def step() -> object:
        model.zero_grad(set_to_none=True)
        clean, noisy = work.clip[:1], work.clip[1:]
        found = model(
            clean[:, :, : -c.frames_per_block] if skip else clean,
            noisy[:, :, 1:] if skip else noisy,
            video_t,
            work.action,
            action_t,
            work.state,
            model.embed_context(work.text, work.image),
            work.condition,
            skip_unused_tokens=skip,
            gradient_checkpointing=recompute,
        )
        assert found.video is not None
        (found.video.square().mean() + found.action.square().mean()).backward()
        return ()

    return step


# ---- the released code


def load_reference(folder: Path, model: VideoActionDiT) -> Any:
    """Build the released transformer with our weights, attention by PyTorch."""
    sys.path.insert(0, str(folder))
    from groot.vla.model.dreamzero.modules import (  # pyright: ignore[reportMissingImports]
        wan2_1_attention,
        wan2_1_submodule,
        wan_video_dit_action_casual_chunk,
    )

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v)
        return found.transpose(1, 2).contiguous()

    wan2_1_attention.AttentionModule.forward = lambda self, q, k, v: attend(q, k, v)
    wan2_1_submodule.flash_attention = attend
    c = model.config
    released = wan_video_dit_action_casual_chunk.CausalWanModel(
        model_type='i2v',
        frame_seqlen=c.frame_tokens,
        text_len=c.text_len,
        in_dim=c.latent_channels + c.condition_channels,
        dim=c.dim,
        ffn_dim=c.ffn_dim,
        freq_dim=c.freq_dim,
        text_dim=c.text_dim,
        out_dim=c.latent_channels,
        num_heads=c.heads,
        num_layers=c.layers,
        max_chunk_size=c.window_blocks,
        num_frame_per_block=c.frames_per_block,
        action_dim=c.action_dim,
        max_state_dim=c.state_dim,
        hidden_size=c.action_hidden,
        num_action_per_block=c.actions_per_block,
        num_state_per_block=c.states_per_block,
        eps=c.eps,
    )
    released.load_state_dict(model.state_dict())
    return released.eval()


def make_reference_runs(released: Any, work: Work) -> dict[str, Run]:
    """Return the passes of the released code: a denoising one, and the clean one of a commit."""
    c = work.config
    # [2 batch tokens heads head_dim] per layer
    caches = list(torch.stack([work.keys, work.values], 1).transpose(3, 4))
    condition = work.condition[:, :, : c.frames_per_block]
    shared = {
        'context': work.text,
        'seq_len': c.frames_per_block * c.frame_tokens,
        'kv_cache': caches,
        'crossattn_cache': [],
        'current_start_frame': CACHED_FRAMES,
        'y': condition,
        'clip_feature': work.image,
    }

    def denoise() -> object:
        video, action, _ = released._forward_inference(
            work.video,
            torch.full((1, c.frames_per_block), 900.0),
            action=work.action[:, : c.actions_per_block],
            timestep_action=torch.full((1, c.actions_per_block), 900.0),
            state=work.state[:, : c.states_per_block],
            **shared,
        )
        return video, action

    def append() -> object:
        *_, caches = released._forward_inference(
            work.clean, torch.zeros(1, c.frames_per_block), **shared
        )
        new = torch.stack(caches)[:, :, :, CACHED_FRAMES * c.frame_tokens :].transpose(3, 4)
        return new[:, 0], new[:, 1]

    return {'denoise, released': denoise, 'append_kv, released': append}


def make_reference_training_runs(released: Any, work: Work) -> dict[str, Run]:
    """Return the training step of the released code on the same clip."""
    frames = work.clip.shape[2]
    released.requires_grad_(True)  # it recomputes activations: without, its code fails

    def step() -> object:
        released.zero_grad(set_to_none=True)
        video, action = released._forward_train(
            work.clip[1:],
            torch.full((1, frames), 500.0),
            torch.full((1, work.action.shape[1]), 500.0),
            work.text,
            frames * work.config.frame_tokens,
            clean_x=work.clip[:1],
            y=work.condition,
            clip_feature=work.image,
            action=work.action,
            state=work.state,
            embodiment_id=torch.zeros(1, dtype=torch.long),
        )
        (video.square().mean() + action.square().mean()).backward()
        return ()

    return {'training step, released': step}


def compare_outputs(runs: dict[str, Run]) -> dict[str, float]:
    """Return the largest absolute differences; ValueError above the tolerance."""
    errors = {}
    for name in ('denoise', 'append_kv'):
        ours, theirs = runs[name](), runs[f'{name}, released']()
        assert isinstance(ours, tuple) and isinstance(theirs, tuple)
        errors[name] = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        if not errors[name] <= TOLERANCE:
            raise ValueError(f'{name}: differs by {errors[name]:.1e}, want at most {TOLERANCE}')
    return errors


# ---- time


def time_runs(runs: dict[str, Run], rounds: int) -> dict[str, np.ndarray]:
    """Return the CPU times of each run in s [rounds]; every round runs all of them in turn."""
    taken_s: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start_s = time.process_time()
            run()
            if number:  # the first round warms up
                taken_s[name].append(time.process_time() - start_s)
    return {name: np.array(each) for name, each in taken_s.items()}


def to_ms(seconds: np.ndarray) -> float:
    """Return the median in ms."""
    return round(1e3 * float(np.median(seconds)), 1)


def summarize(seconds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return ratios of ours to the released code, with intervals."""
    found: list[tuple[str, np.ndarray, np.ndarray]] = []
    for variant in ('', ', compiled'):
        if f'denoise{variant}' not in seconds or 'denoise, released' not in seconds:
            continue
        each, commit = seconds[f'denoise{variant}'], 2 * seconds[f'append_kv{variant}']
        other, other_commit = seconds['denoise, released'], 2 * seconds['append_kv, released']
        found += [
            (f'denoising pass{variant}', each, other),
            (f'commit, both branches{variant}', commit, other_commit),
        ]
        for count in EVALUATIONS:
            chunk, released = (2 * count - 1) * each, 2 * count * other + other_commit
            found += [
                (f'query, {count} evaluations{variant}', chunk, released),
                (f'query and commit, {count} evaluations{variant}', chunk + commit, released),
            ]
    for name, before in (
        ('training step', 'training step, released'),
        ('training step, recomputed', 'training step, released'),
    ):
        if before in seconds:
            found.append((f'{name} / {before}', seconds[name], seconds[before]))
    return [{'what': what, **compare_times(ours, other)} for what, ours, other in found]


def compare_times(ours: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Return medians of both sides [rounds], and the median ratio with its interval."""
    ratios = sorted(ours / other)
    inner = ratios[1:-1] if len(ratios) > 3 else ratios
    return {
        'ours_ms': to_ms(ours),
        'other_ms': to_ms(other),
        'ratio': round(float(np.median(ratios)), 3),
        'low': round(float(inner[0]), 3),
        'high': round(float(inner[-1]), 3),
        'rounds': len(ratios),
    }


if __name__ == '__main__':
    sys.exit(main())
