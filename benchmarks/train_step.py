"""Estimate a LoRA step of a full-size model: measure one real block, multiply by the layers.

Run from the repository root, e.g.: python benchmarks/train_step.py --json FILE
Forward and backward of one block with adapters and gradient checkpointing, as
`./wam train --lora --gradient-checkpointing` runs it, on the tokens of a whole training window;
weights are random bf16. The device is a GPU if there is one. On a CPU a step is estimated for a
stated rate, not measured; `--device meta` only counts.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'src' / 'wam_policy')]

from benchmarks import flops, record
from benchmarks.chunk_latency import make_clock_ms, measure_matmul_rate, read_device_name
from wam_policy.command_line import add_value
from wam_policy.model.network.attention import group_teacher_forcing
from wam_policy.model.network.layers import ContextEmbeddings, TransformerBlock
from wam_policy.model.network.model_config import PRESETS, ModelConfig, get_preset
from wam_policy.model.network.rope import Rotation, line_angles, video_angles
from wam_policy.model.network.video_action_dit import VideoActionDiT

BF16, FLOAT = 2, 4  # bytes
ADAM_STATES = 2  # float32, per trained value
FLOAT_COPIES = 2  # float32: gradient and averaged weights, per trained value
MAX_SCORES_BYTES = 2e9  # on a CPU, with all attention scores; longer windows are not measured
COLUMNS = (
    *('blocks', 'tokens', 'layer_TFLOP', 'step_TFLOP', 'layer_s', 'layer_TFLOP/s', 'kept_GB'),
    *('layer_saved_GB', 'total_GB', 'step_s', 'estimated_step_s'),
)


def main() -> int:
    """Measure, print a table and write JSON."""
    parser = record.make_parser(__doc__)
    parser.add_argument('--preset', choices=tuple(PRESETS), default='dreamzero_14b')
    parser.add_argument('--device', default='cuda:0' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--rank', type=int, default=4)
    parser.add_argument(
        '--blocks', type=int, nargs='+', help='per window (default: 1 and the maximum)'
    )
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    add_value(parser, '--rate', 300.0, 'assumed rate of a GPU for the estimate', 'TFLOP/S')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, c = torch.device(options.device), get_preset(options.preset)
    layer = make_block(c, options.rank, device)
    rows = [
        measure_window(c, layer, blocks, options, device)
        for blocks in options.blocks or (1, c.window_blocks)
    ]
    head = {
        'preset': options.preset,
        'layers': c.layers,
        'rank': options.rank,
        'batch': 1,
        'device': read_device_name(device),
        'threads': options.threads,
        'torch': torch.__version__,
        'weights': 'random bfloat16; adapters float32 under autocast',
        'measured': 'forward and backward of one block with recomputation, times the layers',
        'matmul_TFLOP/s': None
        if device.type == 'meta'
        else round(measure_matmul_rate(device, torch.bfloat16) / 1e12, 4),
        'memory': count_memory(c, layer),
    }
    print(', '.join(f'{name} {value}' for name, value in head.items() if name != 'memory'))
    print(', '.join(f'{name} {value}' for name, value in head['memory'].items()))
    record.show(options.json, rows, COLUMNS, **head)
    return 0


def make_block(c: ModelConfig, rank: int, device: torch.device) -> TransformerBlock:
    """Make one block with random weights and trainable adapters, as in training."""
    from peft import LoraConfig, inject_adapter_in_model

    from wam_policy.model.network.lora import TARGET_MODULES

    with torch.device(device):
        block = TransformerBlock(c).to(torch.bfloat16).requires_grad_(False)
    holder = nn.Module()
    holder.blocks = nn.ModuleList([block])
    inject_adapter_in_model(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGET_MODULES.pattern), holder
    )
    for parameter in block.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return block


class TrainingWindow:
    """Inputs of a block for a training window without unused tokens."""

    def __init__(self, c: ModelConfig, blocks: int, device: torch.device) -> None:
        frames = 1 + blocks * c.frames_per_block
        clean = frames - c.frames_per_block
        video = video_angles(0, frames, c.grid, c.head_dim, device)
        angles = [video[: clean * c.frame_tokens], video[c.frame_tokens :]]
        angles += [
            line_angles(torch.arange(blocks * count, device=device), c.head_dim)
            for count in (c.actions_per_block, c.states_per_block)
        ]
        self.rotation = Rotation.from_angles(torch.cat(angles))
        self.grouped = group_teacher_forcing(c, frames, True, True)
        self.tokens = sum(map(len, angles))

        def sample_noise(*shape: int) -> Tensor:
            return torch.randn(1, *shape, dtype=torch.bfloat16, device=device)

        self.x = sample_noise(self.tokens, c.dim).requires_grad_()
        # the flow time of every token, for all layers
        self.modulation = sample_noise(self.tokens, 6, c.dim)
        self.context = ContextEmbeddings(
            sample_noise(c.text_len, c.dim),
            sample_noise(flops.IMAGE_TOKENS, c.dim) if c.image_context else None,
        )

    @property
    def input_bytes(self) -> int:
        """Return the bytes of a layer's input, which it keeps for the backward pass."""
        return self.x.nbytes

    @property
    def shared_bytes(self) -> int:
        """Return the bytes that all layers share."""
        context = sum(part.nbytes for part in self.context if part is not None)
        return self.modulation.nbytes + context


def measure_window(
    c: ModelConfig,
    layer: TransformerBlock,
    blocks: int,
    options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Count operations and bytes of a window; measure one layer if it fits; scale up."""
    meta_layer, window = make_on_meta_device(c, options.rank, blocks)
    with FlopCounterMode(display=False) as counter:
        run_step(meta_layer, window, window.x.device)
    flops, saved = counter.get_total_flops(), count_saved_bytes(meta_layer, window)
    kept, shared = c.layers * window.input_bytes, window.shared_bytes
    fixed = count_memory(c, layer)
    found: dict[str, Any] = {
        'blocks': blocks,
        'tokens': window.tokens,
        'layer_TFLOP': round(flops / 1e12, 3),
        'step_TFLOP': round(c.layers * flops / 1e12, 1),
        'kept_GB': round(kept / 1e9, 3),
        'shared_GB': round(shared / 1e9, 3),
        'layer_saved_GB': round(saved / 1e9, 3),
        'total_GB': round(fixed['total_GB'] + (kept + shared + saved) / 1e9, 1),
    }
    on_gpu = device.type == 'cuda'
    if on_gpu or device.type == 'cpu' and BF16 * c.heads * window.tokens**2 < MAX_SCORES_BYTES:
        layer_s, peak = measure_step(
            layer, TrainingWindow(c, blocks, device), options.rounds, device
        )
        found |= {'layer_s': round(layer_s, 4), 'layer_TFLOP/s': round(flops / layer_s / 1e12, 4)}
        if on_gpu:
            return found | {
                'layer_peak_GB': round(peak / 1e9, 3),
                'step_s': round(c.layers * layer_s, 3),
            }
    return found | {
        'estimated_step_s': round(c.layers * flops / options.rate / 1e12, 2),
        'estimated_at_TFLOP/s': options.rate,
    }


def measure_step(
    layer: TransformerBlock, window: TrainingWindow, rounds: int, device: torch.device
) -> tuple[float, int]:
    """Return the median time of forward and backward, s, and a GPU's peak memory, bytes."""
    now_ms, durations_s, on_gpu, before = make_clock_ms(device), [], device.type == 'cuda', 0
    if on_gpu:
        run_step(layer, window, device)  # the first one is slow
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    for _ in range(rounds):
        start_ms = now_ms()
        run_step(layer, window, device)
        durations_s.append((now_ms() - start_ms) / 1e3)
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else 0
    return median(durations_s), peak


def run_step(layer: TransformerBlock, window: TrainingWindow, device: torch.device) -> None:
    """Run the block forward and backward, with recomputed activations."""
    with torch.autocast(device.type if device.type != 'meta' else 'cpu', torch.bfloat16):
        x = checkpoint(
            layer,
            window.x,
            window.modulation,
            window.rotation,
            window.context,
            None,
            window.grouped,
            use_reentrant=False,
        )
    x.backward(torch.ones_like(x))
    layer.zero_grad(set_to_none=True)
    window.x.grad = None


def make_on_meta_device(
    c: ModelConfig, rank: int, blocks: int
) -> tuple[TransformerBlock, TrainingWindow]:
    """Return a block and a window of the same shapes on the meta device."""
    meta = torch.device('meta')
    return make_block(c, rank, meta), TrainingWindow(c, blocks, meta)


def count_saved_bytes(layer: TransformerBlock, window: TrainingWindow) -> int:
    """Count the bytes that a block keeps between forward and backward, with a fused kernel.

    Excludes weights, inputs, shared tensors and attention scores.
    """
    known = {storage_address(t) for t in (*layer.parameters(), window.x, window.modulation)}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        scores = tensor.ndim >= 3 and tuple(tensor.shape[-2:]) in score_shapes
        if not scores and storage_address(tensor) not in known:
            seen[storage_address(tensor)] = tensor
        return tensor

    context = [part.shape[1] for part in window.context if part is not None]
    score_shapes = {(window.tokens, keys) for keys in context}
    for group in window.grouped.groups:
        queries, keys = (
            sum(stop - first for first, stop in runs) for runs in (group.queries, group.keys)
        )
        score_shapes |= {(queries, keys), (keys, queries)}
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast('cpu', torch.bfloat16),
    ):
        layer(window.x, window.modulation, window.rotation, window.context, None, window.grouped)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def storage_address(tensor: Tensor) -> int:
    """Return a unique address of a storage, on the meta device too."""
    return tensor.untyped_storage()._cdata


def count_memory(c: ModelConfig, layer: TransformerBlock) -> dict[str, Any]:
    """Count memory independent of the window: weights, adapters, fully trained modules."""
    with torch.device('meta'):
        model = VideoActionDiT(c)
    frozen = sum(p.numel() for p in layer.parameters() if not p.requires_grad)
    moving = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    whole = sum(
        p.numel()
        for part in (model.state_encoder, model.action_encoder, model.action_decoder)
        for p in part.parameters()
    )
    ends = sum(p.numel() for p in model.parameters()) - c.layers * frozen - whole
    trained = c.layers * moving + whole
    weights, adapters = BF16 * (c.layers * frozen + ends), FLOAT * trained
    extra = FLOAT * trained * (ADAM_STATES + FLOAT_COPIES)
    return {
        'layer_weights_MB': round(BF16 * frozen / 1e6, 1),
        'layer_adapters_MB': round(FLOAT * moving / 1e6, 3),
        'layer_optimiser_MB': round(FLOAT * ADAM_STATES * moving / 1e6, 3),
        'weights_GB': round(weights / 1e9, 2),
        'trained_parameters': trained,
        'trained_GB': round(adapters / 1e9, 3),
        'optimiser_GB': round(FLOAT * ADAM_STATES * trained / 1e9, 3),
        'gradients_and_averages_GB': round(FLOAT * FLOAT_COPIES * trained / 1e9, 3),
        'total_GB': round((weights + adapters + extra) / 1e9, 2),
    }


if __name__ == '__main__':
    sys.exit(main())
