"""Map tensor names of released files to parameters of our modules and back, without arithmetic.

A mapping states which tensor of the file fills which parameters. Mappings are derived from the
modules, so that the same list serves reading, writing and comparing.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

DIT_PREFIX = 'action_head.model.'
TEXT_PREFIX = 'action_head.text_encoder.'
IMAGE_PREFIX = 'action_head.image_encoder.model.'
VAE_PREFIX = 'action_head.vae.model.'


@dataclass(frozen=True, slots=True)
class TensorMapping:
    """Map the tensor `name` of `shape` in the file to the parameters `targets`.

    Several targets are stacked along the first axis; axes of length 1 may differ otherwise.
    """

    name: str
    shape: tuple[int, ...]
    targets: tuple[str, ...]


def split_tensor(
    tensor: torch.Tensor, entry: TensorMapping, parameters: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Cut a file's tensor into views shaped like the entry's target parameters."""
    cuts = tensor.chunk(len(entry.targets), dim=0) if len(entry.targets) > 1 else (tensor,)
    return [
        cut.reshape(parameters[target].shape)
        for cut, target in zip(cuts, entry.targets, strict=True)
    ]


def join_parameters(entry: TensorMapping, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Build the file's tensor from the target parameters: the inverse of `split_tensor`."""
    tensors = [parameters[target] for target in entry.targets]
    whole = torch.cat(tensors, dim=0) if len(tensors) > 1 else tensors[0]
    return whole.reshape(entry.shape).contiguous()


def _apply_rules(
    name: str, rules: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]
) -> str:
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count and pattern.startswith('^'):  # anchored rules are alternatives
            break
    return name


def map_identity(module: nn.Module) -> list[TensorMapping]:
    """Map a module whose parameter names are those of the file: the transformer."""
    return [
        TensorMapping(name, tuple(parameter.shape), (name,))
        for name, parameter in module.named_parameters()
    ]


_TEXT_RULES = (
    (r'^shared\.', 'token_embedding.'),
    (r'^encoder\.final_layer_norm\.', 'norm.'),
    (
        r'^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.',
        r'blocks.\1.pos_embedding.embedding.',
    ),
    (r'^encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.', r'blocks.\1.attn.'),
    (r'^encoder\.block\.(\d+)\.layer\.0\.layer_norm\.', r'blocks.\1.norm1.'),
    (r'^encoder\.block\.(\d+)\.layer\.1\.layer_norm\.', r'blocks.\1.norm2.'),
    (r'^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.', r'blocks.\1.ffn.gate.0.'),
    (r'^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.', r'blocks.\1.ffn.fc1.'),
    (r'^encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.', r'blocks.\1.ffn.fc2.'),
)


def map_text_encoder(net: nn.Module) -> list[TensorMapping]:
    """Map a UMT5 encoder; its tied input embedding is one tensor."""
    return [
        TensorMapping(_apply_rules(name, _TEXT_RULES), tuple(parameter.shape), (name,))
        for name, parameter in net.named_parameters()
    ]


_IMAGE_RULES = (
    (r'^embeddings\.class_embedding$', 'cls_embedding'),
    (r'^embeddings\.position_embedding\.weight$', 'pos_embedding'),
    (r'^embeddings\.patch_embedding\.', 'patch_embedding.'),
    (r'^pre_layrnorm\.', 'pre_norm.'),
    (r'^encoder\.layers\.(\d+)\.layer_norm(\d)\.', r'transformer.\1.norm\2.'),
    (r'^encoder\.layers\.(\d+)\.self_attn\.out_proj\.', r'transformer.\1.attn.proj.'),
    (r'^encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.', r'transformer.\1.attn.to_qkv.'),
    (r'^encoder\.layers\.(\d+)\.mlp\.fc1\.', r'transformer.\1.mlp.0.'),
    (r'^encoder\.layers\.(\d+)\.mlp\.fc2\.', r'transformer.\1.mlp.2.'),
)
_LEADING_AXES = {'cls_embedding': (1, 1), 'pos_embedding': (1,)}  # axes the file has in front


def map_image_encoder(net: nn.Module) -> list[TensorMapping]:
    """Map a CLIP vision tower; query, key and value are one tensor in the file."""
    parameters = dict(net.named_parameters())
    grouped: dict[str, list[str]] = {}
    for name in parameters:
        grouped.setdefault(_apply_rules(name, _IMAGE_RULES), []).append(name)
    entries = []
    for file_name, targets in grouped.items():
        if len(targets) == 3:
            targets = sorted(targets, key=lambda target: 'qkv'.index(target.split('.')[-2][0]))
        first = parameters[targets[0]].shape
        shape = (first[0] * len(targets), *first[1:])
        entries.append(
            TensorMapping(file_name, (*_LEADING_AXES.get(file_name, ()), *shape), tuple(targets))
        )
    return entries


def unused_image_pattern(layers: int) -> re.Pattern[str]:
    """Match the tensors of the image file that inference never reads.

    `layers` is the number of blocks that run: the block after them, the last norm, the head and
    the logit scale exist only for CLIP's own training.
    """
    return re.compile(
        rf'(visual\.(transformer\.{layers}\..+|post_norm\.(weight|bias)|head)'
        r'|log_scale|textual\..+)'
    )


_RESIDUAL_RULES = (
    (r'\.norm1\.', '.residual.0.'),
    (r'\.conv1\.', '.residual.2.'),
    (r'\.norm2\.', '.residual.3.'),
    (r'\.conv2\.', '.residual.6.'),
    (r'\.conv_shortcut\.', '.shortcut.'),
)
_VAE_RULES = (
    (r'^quant_conv\.', 'conv1.'),
    (r'^post_quant_conv\.', 'conv2.'),
    (r'^(encoder|decoder)\.conv_in\.', r'\1.conv1.'),
    (r'^(encoder|decoder)\.norm_out\.', r'\1.head.0.'),
    (r'^(encoder|decoder)\.conv_out\.', r'\1.head.2.'),
    (r'^(encoder|decoder)\.mid_block\.attentions\.0\.', r'\1.middle.1.'),
    (r'^(encoder|decoder)\.mid_block\.resnets\.0\.', r'\1.middle.0.'),
    (r'^(encoder|decoder)\.mid_block\.resnets\.1\.', r'\1.middle.2.'),
)


def _make_vae21_rules(
    res_blocks: int,
) -> Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]:
    per_stage = res_blocks + 2  # decoder: one block more than the encoder, one upsampler

    def flat(match: re.Match[str]) -> str:
        return f'decoder.upsamples.{int(match[1]) * per_stage + int(match[2])}.'

    def upsampler(match: re.Match[str]) -> str:
        return f'decoder.upsamples.{int(match[1]) * per_stage + per_stage - 1}.'

    return (
        *_VAE_RULES,
        (r'^encoder\.down_blocks\.', 'encoder.downsamples.'),
        (r'^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.', flat),
        (r'^decoder\.up_blocks\.(\d+)\.upsamplers\.0\.', upsampler),
    )


def _make_vae22_rules(res_blocks: int) -> Sequence[tuple[str, str]]:
    return (
        *_VAE_RULES,
        (
            r'^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.',
            r'encoder.downsamples.\1.downsamples.\2.',
        ),
        (
            r'^encoder\.down_blocks\.(\d+)\.downsampler\.',
            rf'encoder.downsamples.\1.downsamples.{res_blocks}.',
        ),
        (r'^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.', r'decoder.upsamples.\1.upsamples.\2.'),
        (
            r'^decoder\.up_blocks\.(\d+)\.upsampler\.',
            rf'decoder.upsamples.\1.upsamples.{res_blocks + 1}.',
        ),
    )


def map_vae(net: nn.Module, *, residual: bool, res_blocks: int) -> list[TensorMapping]:
    """Map a Wan autoencoder: `residual` is the nested naming of 2.2, else the flat one of 2.1."""
    outer = _make_vae22_rules(res_blocks) if residual else _make_vae21_rules(res_blocks)
    entries = []
    for name, parameter in net.named_parameters():
        # blocks first: `conv1` and `conv2` are other layers at the top level of the file
        inner = (
            _apply_rules(name, _RESIDUAL_RULES)
            if 'resnets' in name or 'down_blocks' in name
            else name
        )
        entries.append(TensorMapping(_apply_rules(inner, outer), tuple(parameter.shape), (name,)))
    return entries
