"""Find low-rank adapters by name and merge them into the weights they were trained on.

Merging is done in fp32 and rounded once. `checkpoint_folder` decides the order of merging.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

_WRAPPER = 'base_model.model.'
_ADAPTER = re.compile(r'(?P<target>.+)\.lora_(?P<side>[AB])\.default\.weight')
TARGET_MODULES = re.compile(r'blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])')


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Define the scale of adapters: W + alpha / rank * B @ A."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


RELEASED_LORA = LoraConfig(rank=4, alpha=4.0)


def base_weight_name(name: str) -> str:
    """Return the name of a tensor before its module was wrapped with adapters."""
    return name.replace(_WRAPPER, '').replace('.base_layer.', '.')


def pair_adapters(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Pair adapter tensors: plain weight name -> names of A [rank in] and B [out rank].

    Raises ValueError naming an adapter whose A or B is missing.
    """
    halves: dict[str, dict[str, str]] = {}
    for name in names:
        match = _ADAPTER.fullmatch(name)
        if match:
            halves.setdefault(base_weight_name(match['target']) + '.weight', {})[match['side']] = (
                name
            )
    single = [name for pair in halves.values() if len(pair) == 1 for name in pair.values()]
    if single:
        raise ValueError(f'adapters without their other half: {", ".join(sorted(single)[:5])}')
    return {target: (pair['A'], pair['B']) for target, pair in halves.items()}


def merge_adapter(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, config: LoraConfig
) -> torch.Tensor:
    """Add an adapter to weight [out in]; the result is fp32, to be rounded by the caller."""
    if a.shape != (config.rank, weight.shape[1]) or b.shape != (weight.shape[0], config.rank):
        raise ValueError(
            f'adapter A {list(a.shape)}, B {list(b.shape)} does not fit a weight '
            f'{list(weight.shape)} at rank {config.rank}'
        )
    return weight.float() + config.scale * (b.float() @ a.float())
