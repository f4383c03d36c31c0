"""Quantize the linears of the blocks to 8 bits, calibrated by modelopt.

Experimental: never run on a GPU by this project.

Only the linears that every pass applies to every token are quantized. Small and sensitive layers
keep their type (patch embedding, flow time and modulation, head, action and state register), and
so do the keys and values of the context, which are computed once per instruction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wam_policy.model.network.video_action_dit import VideoActionDiT

QUANTIZED_LINEARS = re.compile(r'blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.[qo]|ffn\.[02])')
SCHEMES = ('fp8', 'int8', 'nvfp4')
FULL_PRECISION = 'full'
FP4_BLOCK = 16  # weights that share a scale in NVFP4
# An open report says that CUDA's row-wise 8-bit product reads out of bounds for other numbers of
# rows; 1785 tokens of a 14B query become 1792.
ROW_MULTIPLE = 256


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Describe an 8-bit number format."""

    dtype: torch.dtype
    max_value: float

    def quantize(self, scaled: Tensor) -> Tensor:
        """Round values already divided by their scale; larger ones saturate."""
        scaled = scaled.clamp(-self.max_value, self.max_value)
        if self.dtype is torch.int8:
            scaled = scaled.round()
        return scaled.to(self.dtype)


NUMBER_FORMATS = {
    'fp8': NumberFormat(torch.float8_e4m3fn, 448.0),
    'int8': NumberFormat(torch.int8, 127.0),
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """Define how the linears of a model are quantized.

    `input_amax` is the largest input of each linear during calibration, by its name in the model;
    if empty, each token gets its own scale at run time.
    """

    scheme: str
    input_amax: Mapping[str, float]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + '\n')

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read what `save` wrote; ValueError for any other content."""
        try:
            found = cls(**json.loads(path.read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f'{path} is not a calibration: {error}') from error
        if found.scheme not in SCHEMES:
            raise ValueError(f'{path}: scheme {found.scheme!r}, want one of {", ".join(SCHEMES)}')
        return found


def load_calibration(precision: str) -> Calibration | None:
    """Load a precision: 'full' (None), 'fp8' or 'int8' per token, or a calibration file."""
    if precision == FULL_PRECISION:
        return None
    if precision in NUMBER_FORMATS:
        return Calibration(precision, {})
    path = Path(precision)
    if path.is_file():
        return Calibration.read(path)
    raise ValueError(
        f'precision {precision!r}: want {FULL_PRECISION}, '
        f'{", ".join(NUMBER_FORMATS)} or a calibration file'
    )


def find_linears(dit: VideoActionDiT) -> dict[str, nn.Module]:
    """Return the linears that are quantized, by name."""
    return {
        name: module for name, module in dit.named_modules() if QUANTIZED_LINEARS.fullmatch(name)
    }


# ---- calibration


def make_modelopt_config(scheme: str) -> dict[str, Any]:
    """Return the modelopt configuration: scales per output row of weights, per input tensor.

    NVFP4 scales blocks of 16 dynamically, as the released engines do.
    """
    if scheme == 'nvfp4':
        block = {
            'num_bits': (2, 1),
            'block_sizes': {-1: FP4_BLOCK, 'type': 'dynamic', 'scale_bits': (4, 3)},
        }
        formats = {'weight': block, 'input': block}
    else:
        bits: Any = {'fp8': (4, 3), 'int8': 8}[scheme]
        formats = {
            'weight': {'num_bits': bits, 'axis': 0},
            'input': {'num_bits': bits, 'axis': None},
        }
    wanted = (
        '*blocks.*.self_attn.*',
        '*blocks.*.cross_attn.q.*',
        '*blocks.*.cross_attn.o.*',
        '*blocks.*.ffn.*',
    )
    return {
        'algorithm': 'max',
        'quant_cfg': [
            {'quantizer_name': '*', 'enable': False},
            *(
                {'quantizer_name': f'{where}{side}_quantizer', 'cfg': form}
                for where in wanted
                for side, form in formats.items()
            ),
        ],
    }


def calibrate(dit: VideoActionDiT, scheme: str, forward_loop: Callable[[], object]) -> Calibration:
    """Calibrate with modelopt while `forward_loop` runs the model; simulate the scheme in place.

    The model then computes in its own type with values rounded to the scheme;
    `install_quantized_linears` switches to 8-bit arithmetic. Raises ValueError for a scheme that
    is unknown or that this machine cannot simulate, and if modelopt is not installed.
    """
    if scheme not in SCHEMES:
        raise ValueError(f'scheme {scheme!r}: want one of {", ".join(SCHEMES)}')
    if scheme == 'nvfp4' and dit.device.type != 'cuda':
        raise ValueError(
            'nvfp4 needs a CUDA device (its kernels have no CPU version): use fp8 or int8'
        )
    try:
        import modelopt.torch.quantization as mtq
    except ImportError as error:
        raise ValueError('calibration needs nvidia-modelopt: run ./wam setup') from error

    def run(_: nn.Module) -> None:
        forward_loop()

    mtq.quantize(dit, make_modelopt_config(scheme), run)
    quantizers: dict[str, Any] = {
        name: module.input_quantizer for name, module in find_linears(dit).items()
    }
    amax = {
        name: float(quantizer.amax)
        for name, quantizer in quantizers.items()
        if getattr(quantizer, 'amax', None) is not None
    }
    return Calibration(scheme, amax)


# ---- execution


class QuantizedLinear(nn.Module):
    """Multiply 8-bit inputs with an 8-bit weight [out in]; scales are float32."""

    weight: Tensor
    weight_scale: Tensor  # [out]
    bias: Tensor
    input_scale: Tensor | None  # []; None: one per token
    unit_scale: Tensor  # []

    def __init__(
        self, number_format: NumberFormat, linear: nn.Module, input_amax: float | None
    ) -> None:
        super().__init__()
        self.number_format = number_format
        full: Tensor = linear.get_parameter('weight').detach()
        scale = full.float().abs().amax(1).clamp_min(1e-12) / number_format.max_value
        self.register_buffer('weight', number_format.quantize(full.float() / scale[:, None]))
        self.register_buffer('weight_scale', scale)
        self.register_buffer('unit_scale', torch.ones((), device=full.device))
        self.register_buffer('bias', linear.get_parameter('bias').detach())
        fixed = (
            None
            if input_amax is None
            else torch.full(
                (), max(input_amax, 1e-12) / number_format.max_value, device=full.device
            )
        )
        self.register_buffer('input_scale', fixed)

    @classmethod
    def join(cls, parts: Sequence[QuantizedLinear]) -> QuantizedLinear:
        """Make one module of several with the same input; they become views of its tensors."""
        whole = cls.__new__(cls)
        nn.Module.__init__(whole)
        whole.number_format = parts[0].number_format
        for name in ('weight', 'weight_scale', 'bias'):
            tensors = [part.get_buffer(name) for part in parts]
            joined = torch.cat(
                [x.view(torch.int8) if x.element_size() == 1 else x for x in tensors]
            )
            joined = joined.view(tensors[0].dtype)
            whole.register_buffer(name, joined, persistent=False)
            views = joined.split([len(x) for x in tensors])
            for part, view in zip(parts, views, strict=True):
                part.register_buffer(name, view)
        for name in ('input_scale', 'unit_scale'):  # the same input has the same scale
            whole.register_buffer(name, getattr(parts[0], name), persistent=False)
        return whole

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self._export_qdq(x)
        rows = x.flatten(0, -2).float()
        scale = self.input_scale
        if scale is None:
            scale = rows.abs().amax(1).clamp_min(1e-12) / self.number_format.max_value
            scale = scale[:, None]
        product = self._matmul(self.number_format.quantize(rows / scale), scale, x.dtype)
        return (product + self.bias).view(*x.shape[:-1], -1)

    def _matmul(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Multiply rows [tokens in] of scale [] or [tokens 1] by the weight: [tokens out]."""
        tokens = len(rows)
        if rows.is_cuda:
            spare = -tokens % ROW_MULTIPLE
            rows = F.pad(rows.view(torch.int8), (0, 0, 0, spare)).view(rows.dtype)
            scale = F.pad(scale, (0, 0, 0, spare), value=1.0) if scale.ndim else scale
        if self.number_format.dtype is torch.int8:
            whole = torch.ops.aten._int_mm(rows, self.weight.t())
            return (whole * scale * self.weight_scale).to(dtype)[:tokens]
        # CUDA kernels with a scale per row support bfloat16 outputs only
        out = torch.bfloat16 if rows.is_cuda else dtype
        per_tensor = not scale.ndim
        product = torch.ops.aten._scaled_mm(
            rows,
            self.weight.t(),
            scale_a=scale if per_tensor else scale.contiguous(),
            # one scale per tensor selects the faster kernel: the weight's rows are scaled after it
            scale_b=self.unit_scale if per_tensor else self.weight_scale[None],
            out_dtype=out,
            use_fast_accum=True,  # accurate enough for 8-bit operands, and much faster on Hopper
        )
        if per_tensor:
            product = product * self.weight_scale
        return product.to(dtype)[:tokens]

    def _export_qdq(self, x: Tensor) -> Tensor:
        """Emit quantize-dequantize pairs, which TensorRT fuses into 8-bit kernels."""
        assert self.input_scale is not None  # checked by `onnx_export.export_pass`
        seen = _dequantize_onnx(
            _quantize_onnx(x, self.input_scale, self.number_format), self.input_scale, x
        )
        weight = _dequantize_onnx(self.weight, self.weight_scale, x, axis=0)
        return F.linear(seen, weight, self.bias)


def _quantize_onnx(x: Tensor, scale: Tensor, number_format: NumberFormat) -> Tensor:
    zero = torch.zeros((), dtype=number_format.dtype, device=x.device)
    return torch.onnx.ops.symbolic(
        'QuantizeLinear',
        (x, scale.to(x.dtype), zero),
        dtype=number_format.dtype,
        shape=x.shape,
        version=21,
    )


def _dequantize_onnx(x: Tensor, scale: Tensor, like: Tensor, axis: int = 1) -> Tensor:
    return torch.onnx.ops.symbolic(
        'DequantizeLinear',
        (x, scale.to(like.dtype)),
        {'axis': axis},
        dtype=like.dtype,
        shape=x.shape,
        version=21,
    )


def install_quantized_linears(dit: VideoActionDiT, calibration: Calibration) -> VideoActionDiT:
    """Replace the linears of a model by 8-bit ones, one at a time, and return the model.

    Raises ValueError if the calibration is of another model or its scheme cannot be executed.
    """
    number = NUMBER_FORMATS.get(calibration.scheme)
    if number is None:
        raise ValueError(f'{calibration.scheme} can only be simulated: use fp8 or int8')
    found, amax = find_linears(dit), calibration.input_amax
    if amax and set(amax) != set(found):
        differing = sorted(set(amax) ^ set(found))
        raise ValueError(
            f'the calibration is for another model: {len(differing)} of '
            f'{len(found)} linears differ, {differing[0]} first'
        )
    for name, linear in found.items():
        owner, _, attribute = name.rpartition('.')
        made = QuantizedLinear(number, linear, amax.get(name))
        setattr(dit.get_submodule(owner), attribute, made)
    return dit
