"""Find low-rank adapters by name and merge them into the weights they were trained on.

Merging is done in fp32 and rounded once. `checkpoint.adapter_folder` decides the order of merging.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

_WRAPPER = 'base_model.model.'
# peft drops the adapter's name, `default` in released files, where it writes a folder of its own
_ADAPTER = re.compile(r'(?P<target>.+)\.lora_(?P<side>[AB])(\.[^.]+)?\.weight')
TARGET_MODULES = re.compile(r'blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])')


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Define the scale of adapters: W + alpha / rank * B @ A.

    Patterns, as in peft, give modules whose names end with a key another rank or alpha.
    """

    rank: int
    alpha: float
    rank_stabilized: bool = False  # alpha / sqrt(rank) instead
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base_digest: str = ''  # of the weights they were trained on; empty: not known

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def for_module(self, name: str) -> 'LoraConfig':
        """Return the configuration of one module, without patterns."""
        return replace(
            self,
            rank=_match_pattern(self.rank_pattern, name, self.rank),
            alpha=_match_pattern(self.alpha_pattern, name, self.alpha),
            rank_pattern={},
            alpha_pattern={},
        )


def _match_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of the first key that matches the end of a module's name, as peft does."""
    return next(
        (value for key, value in patterns.items() if re.fullmatch(rf'(.*\.)?({key})', name)),
        default,
    )


RELEASED_LORA = LoraConfig(rank=4, alpha=4.0)


def base_weight_name(name: str) -> str:
    """Return the name of a tensor before its module was wrapped with adapters."""
    return name.replace(_WRAPPER, '').replace('.base_layer.', '.')


def pair_adapters(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Pair adapter tensors: plain weight name -> names of A [rank in] and B [out rank].

    Raises ValueError naming an adapter whose A or B is missing or present twice.
    """
    halves: dict[str, dict[str, str]] = {}
    for name in names:
        match = _ADAPTER.fullmatch(name)
        if match:
            pair = halves.setdefault(base_weight_name(match['target']) + '.weight', {})
            if match['side'] in pair:
                raise ValueError(
                    f'two adapters for one weight: {pair[match["side"]]} and {name}; keep one'
                )
            pair[match['side']] = name
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
