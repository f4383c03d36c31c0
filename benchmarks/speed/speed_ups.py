"""Measure each speed-up against our own code without it, on the same work.

Run from the repository root: python benchmarks/speed/speed_ups.py [--json FILE]. Both sides of
a row take turns in one process, on one CPU thread; a ratio is the median over the rounds, its
interval the second and the second to last of nine rounds, which holds the median with 96 %. CPU
time is measured, so that other load on the machine matters little. Memory and bytes have one
value. With --only, the file keeps its other rows.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import record
from benchmarks.random_session import RandomLatentSession, assume_similar, make_random_model
from benchmarks.reference_speed import (
    Run,
    Work,
    make_config,
    make_passes,
    make_training_step,
    make_work,
)
from wam_policy.core.robot import embodiment
from wam_policy.model.checkpoint import model_spec, random_checkpoint
from wam_policy.model.encoders.wan_vae import WAN21, EncoderState, Vae
from wam_policy.model.execution import engines, packed_linear
from wam_policy.model.network import layers
from wam_policy.model.network.attention import GroupedAttention
from wam_policy.model.network.kv_cache import KVCache
from wam_policy.model.network.layers import TransformerBlock
from wam_policy.model.network.model_config import get_preset
from wam_policy.model.network.rope import Rotation
from wam_policy.model.network.video_action_dit import VideoActionDiT
from wam_policy.model.sampling import sampler
from wam_policy.provenance import collect_provenance
from wam_policy.workers import run_worker

COLUMNS = ('what', 'unit', 'before', 'after', 'ratio', 'low', 'high')
CPU = torch.device('cpu')
VAE_SIZE = (64, 96)  # pixels, rows and columns
LOAD_LAYERS = 28  # of width 1024, in bfloat16: 1.1 GB in one file

Pair = tuple[Run, Run]  # without the speed-up, with it


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--dim', type=int, default=512)
    parser.add_argument('--layers', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--only', default='', metavar='TEXT', help='rows that contain TEXT')
    parser.add_argument('--no-compiled', action='store_true', help='needs no C++ compiler')
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run_worker.keep_freed_memory()  # as a worker does
    work = make_work(make_config(chosen.dim, chosen.layers), torch.Generator().manual_seed(0))
    makers: dict[str, Callable[[], Pair]] = {
        'static mask of 4 / dynamic, best case': lambda: make_static_mask(work),
        'one product for queries, keys, values / three': lambda: make_fused(work),
        'packed weights, fused GELU / plain linears': lambda: make_packed(work),
        'padding of the text as one token / every padded token': lambda: make_folded(work),
        'rotation as one complex product / in steps': lambda: make_rotated(work),
        'norm and modulation in one kernel / in three': lambda: make_modulated(work),
        'append_kv ends at the last keys / whole last layer': lambda: make_append(chosen.dim),
        'training attends by groups / under a mask': lambda: make_grouped(work),
        'training omits unused tokens / all tokens': lambda: make_lean(work),
        'restart encodes one gray block / the whole window': make_gray,
        'autoencoder compiled / eager, one group': make_compiled_vae,
    }
    rows = []
    for what, make in makers.items():
        if chosen.only in what and not (chosen.no_compiled and 'compiled' in what):
            rows.append({'what': what, **measure(make(), chosen.rounds)})
            print(record.format_table(rows[-1:], COLUMNS), flush=True)
    what = 'autoencoder reuses freed memory / returns it, one group'
    if chosen.only in what:
        rows.append({'what': what, **measure_kept_memory(chosen.rounds)})
    for what, count in (
        ('load of one file, peak beside the model', measure_load),
        ('KV cache of a 14B branch', measure_cache),
    ):
        if chosen.only in what:
            rows.append({'what': what, 'unit': 'GB', **count()})
    print(record.format_table(rows, COLUMNS))
    if chosen.json:
        rows = merge_rows(chosen.json, rows, chosen.rounds)
        record.write_report(
            chosen.json,
            {
                'model': work.config.to_dict(),
                'threads': 1,
                'dtype': 'float32',
                'rounds': chosen.rounds,
                'torch': torch.__version__,
                'rows': rows,
            },
        )
    return 0


def merge_rows(path: Path, rows: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a file, where measured anew replaced, and all that it lacks.

    A row tells its own rounds, date, commit and load: those of the file are of the last run.
    """
    keys = ('rounds', 'date', 'commit', 'load_average')
    current = {'rounds': rounds, **collect_provenance()}
    provenance = {key: current[key] for key in keys}
    new = {row['what']: {**row, **provenance} for row in rows}
    if not path.exists():
        return list(new.values())
    content = json.loads(path.read_text())
    origin = {key: content[key] for key in keys}
    old = {row['what']: {**origin, **row} for row in content['rows']}
    return list({**old, **new}.values())


def measure(pair: Pair, rounds: int) -> dict[str, Any]:
    """Return the median times in ms, and the median ratio with its interval."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, times in zip(pair, taken, strict=True):
            start_s = time.process_time()
            run()
            if number:  # the first round warms up
                times.append(1e3 * (time.process_time() - start_s))
    return summarize(taken)


def summarize(taken: tuple[list[float], list[float]]) -> dict[str, Any]:
    """Return the figures of a row from the times of both sides in ms."""
    ratios = sorted(after / before for before, after in zip(*taken, strict=True))
    inner = ratios[1:-1] or ratios
    before, after = (statistics.median(times) for times in taken)
    return {
        'unit': 'ms',
        'before': round(before, 1),
        'after': round(after, 1),
        'ratio': round(statistics.median(ratios), 3),
        'low': round(inner[0], 3),
        'high': round(inner[-1], 3),
    }


# ---- the transformer


def make_model(work: Work) -> VideoActionDiT:
    return make_random_model(work.config, CPU, torch.float32)


def without_gradients(run: Run) -> Run:
    return torch.inference_mode()(run)


def make_static_mask(work: Work) -> Pair:
    """A chunk of four evaluations; by similarity the last one is not known beforehand."""
    model, runs = make_model(work), []
    engine = engines.make_engine(engines.EAGER, model)
    for name in ('dynamic4', 'static4'):
        with torch.inference_mode():
            session = RandomLatentSession(model, sampler.SAMPLERS[name], engine)
            session.commit(1)
        runs.append(without_gradients(session.predict_chunk))

    def predict_dynamic() -> object:
        with mock.patch.object(sampler, 'velocity_similarity', assume_similar):
            return runs[0]()

    return predict_dynamic, runs[1]


def make_fused(work: Work) -> Pair:
    model = make_model(work)
    plain = make_passes(model, work)['denoise']
    fused = make_model(work)
    engines.fuse_projections(fused)
    return without_gradients(plain), without_gradients(make_passes(fused, work)['denoise'])


def make_packed(work: Work) -> Pair:
    plain, packed = make_model(work), make_model(work)
    packed_linear.pack_linears(packed)
    runs = [without_gradients(make_passes(each, work)['denoise']) for each in (plain, packed)]
    return runs[0], runs[1]


def make_folded(work: Work) -> Pair:
    """A text of `TEXT_TOKENS` tokens, of 512 with its padding."""
    runs = []
    for fold in (False, True):
        model = make_served(work)
        model.folds_text_padding = fold
        runs.append(without_gradients(make_passes(model, work)['denoise']))
    return runs[0], runs[1]


def make_served(work: Work) -> VideoActionDiT:
    """Make a model as a worker runs it on a CPU."""
    model = make_model(work)
    engines.make_engine(engines.EAGER, model)
    return model


def make_rotated(work: Work) -> Pair:
    def rotate_in_steps(x: Tensor, rotation: Rotation) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = rotation
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2)

    return make_replaced(work, 'apply_rotation', rotate_in_steps)


def make_modulated(work: Work) -> Pair:
    def modulate_in_steps(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift

    return make_replaced(work, 'modulate', modulate_in_steps)


def make_replaced(work: Work, name: str, before: Callable[..., Tensor]) -> Pair:
    """Denoise with a function of the layers as it was before, and as it is."""
    denoise = without_gradients(make_passes(make_served(work), work)['denoise'])

    def denoise_as_before() -> object:
        with mock.patch.object(layers, name, before):
            return denoise()

    return denoise_as_before, denoise


def make_append(dim: int) -> Pair:
    """A commit with eight layers; the share of the last one falls with their number."""
    work = make_work(make_config(dim, 8), torch.Generator().manual_seed(0))
    model = make_model(work)
    packed_linear.pack_linears(model)
    append, last = make_passes(model, work)['append_kv'], model.layers[-1]

    def run_whole_layer(*given: Any, keys_only: bool = False) -> Tensor:
        return TransformerBlock.forward(last, *given)

    def append_to_the_end() -> object:
        with mock.patch.object(last, 'forward', run_whole_layer):
            return append()

    return without_gradients(append_to_the_end), without_gradients(append)


def make_grouped(work: Work) -> Pair:
    step = make_training_step(make_model(work), work)

    def step_under_a_mask() -> object:
        with attend_under_a_mask():
            return step()

    return step_under_a_mask, step


def make_lean(work: Work) -> Pair:
    model = make_model(work)
    return make_training_step(model, work, skip=False), make_training_step(model, work)


@contextmanager
def attend_under_a_mask() -> Iterator[None]:
    """Replace attention by groups with one attention under the mask, as it was before."""
    masks: dict[tuple[GroupedAttention, int], Tensor] = {}

    def attend(self: GroupedAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key = self, q.shape[2]
        if key not in masks:
            masks[key] = self.make_mask(q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=masks[key])

    with mock.patch.object(GroupedAttention, 'attend', attend):
        yield


# ---- the autoencoder


def make_vae() -> tuple[Vae, Tensor]:
    """Make the autoencoder of 14B at a third of its width, and a window of frames."""
    torch.manual_seed(0)
    vae = Vae(replace(WAN21, base_dim=32, decoder_base_dim=32)).requires_grad_(False)
    return vae, torch.rand(1, 3, get_preset('dreamzero_14b').window_pixel_frames, *VAE_SIZE)


def make_gray() -> Pair:
    """Encode the first frame of a window, and gray frames of its image condition."""
    vae, video = make_vae()
    gray, block = torch.zeros_like(video[:, :, 1:]), get_preset('dreamzero_14b').block_pixel_frames

    def restart(frames: int) -> Run:
        def run() -> object:
            _, state = vae.encode_first_frame(video[:, :, :1])
            return vae.encode_next_frames(state, gray[:, :, :frames])

        return without_gradients(run)

    return restart(gray.shape[2]), restart(block)


def make_compiled_vae() -> Pair:
    """Encode a group in the middle of a clip."""
    runs = []
    for compiled in (False, True):
        vae, video = make_vae()
        with torch.inference_mode():
            _, state = vae.encode_first_frame(video[:, :, :1])
            _, state = vae.encode_next_frames(state, video[:, :, 1:9])
        if compiled:
            engines.compile_autoencoder(vae)
        runs.append(without_gradients(encode_group(vae, state, video[:, :, 9:13])))
    return runs[0], runs[1]


def encode_group(vae: Vae, state: EncoderState, frames: Tensor) -> Run:
    return lambda: vae.encode_next_frames(state, frames)


# How malloc treats freed memory holds for a process, and one side would find what the other freed.
ENCODER = """
import sys, time, torch
from benchmarks.speed import speed_ups
from wam_policy.workers import run_worker
torch.set_num_threads(1)
if sys.argv[1] == 'keep':
    run_worker.keep_freed_memory()
encode = speed_ups.make_compiled_vae()[0]
for _ in range(3):
    encode()
start_s = time.process_time()
for _ in range(3):
    encode()
print((time.process_time() - start_s) / 3)
"""


def measure_kept_memory(rounds: int) -> dict[str, Any]:
    """Encode a group in the middle of a clip, in a new process each time, in turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for way, times in zip(('plain', 'keep'), taken, strict=True):
            times.append(1e3 * float(run_program(ENCODER, way)))
    return summarize(taken)


# ---- memory

# What imports and the finished model occupy is no cost of loading: both are subtracted. The peak
# is reset first: building the small model, for what is imported late, reached 0.6 GB.
LOADERS = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import load_file
from wam_policy.model.checkpoint import checkpoint_folder, model_spec, tensor_index
tensor_index.build_networks(model_spec.make_preset_spec('tiny'), torch.device('cpu'), None)  # lazy
torch.set_num_threads(1)
def read_memory(key):
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key + ':'))
folder, way = sys.argv[1:]
Path('/proc/self/clear_refs').write_text('5')
before = read_memory('VmRSS')
if way == 'whole':
    file = next(Path(folder).glob("*.safetensors"))
    held = {name: x.clone() for name, x in load_file(file).items()}
    size = sum(x.nbytes for x in held.values())
else:
    loaded = checkpoint_folder.load(folder, torch.device('cpu'), torch.bfloat16)
    size = sum(p.nbytes for part in (loaded.dit, loaded.encoders) for p in part.parameters())
print(json.dumps((read_memory('VmHWM') - before - size) / 1e9))
"""


def measure_load() -> dict[str, Any]:
    """Return the peak memory beside the model: file mapped as a whole, and tensor by tensor."""
    toy = random_checkpoint.make_toy_spec(model_spec.make_preset_spec('dreamzero_14b'))
    model = replace(toy.model, dim=1024, heads=8, layers=LOAD_LAYERS, ffn_dim=4096)
    with tempfile.TemporaryDirectory() as folder:
        random_checkpoint.write_sparse_checkpoint(
            replace(toy, model=model),
            [embodiment.load_embodiment('yam')],
            Path(folder),
            dtype=torch.bfloat16,
            max_shard_size=10_000_000_000,
        )
        before, after = (measure_loader(folder, way) for way in ('whole', 'ours'))
    return {'before': round(before, 2), 'after': round(max(after, 0.0), 2)}


def measure_loader(folder: str, way: str) -> float:
    return json.loads(run_program(LOADERS, folder, way))


def run_program(text: str, *arguments: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    paths = {'PYTHONPATH': os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, '-c', text, *arguments],
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def measure_cache() -> dict[str, Any]:
    """Return the size of the cache without and with tokens that no pass reaches."""
    c = get_preset('dreamzero_14b')
    cache = KVCache(c, 1, torch.device('meta'), torch.bfloat16)
    # before, a temporary block had room of its own behind a full window
    block = 2 * cache.keys[..., : c.frames_per_block * c.frame_tokens, :].nbytes
    before, after = (size / 1e9 for size in (cache.nbytes + block, cache.nbytes))
    return {
        'before': round(before, 2),
        'after': round(after, 2),
        'ratio': round(after / before, 3),
    }


if __name__ == '__main__':
    sys.exit(main())
