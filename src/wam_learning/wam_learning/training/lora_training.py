"""Low-rank adapters: injected into a transformer by peft, written in the released format.

The encoders and the decoder of state and action are trained completely, because their inputs and
outputs depend on the robot.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.network.lora import TARGET_MODULES, LoraConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT

FULLY_TRAINED_MODULES = ('state_encoder', 'action_encoder', 'action_decoder')
_KEY_PREFIX = tensor_keymap.DIT_PREFIX + 'base_model.model.'


def make_lora_config(rank: int, base_digest: str = '') -> LoraConfig:
    """Return the configuration of a rank, with alpha equal to the rank as in the releases.

    `base_digest` lets a checkpoint of the same sizes but other weights be refused as the base.
    """
    if rank < 1:
        raise ValueError(f'lora rank {rank}: want at least 1')
    return LoraConfig(rank, float(rank), base_digest=base_digest)


def inject(model: VideoActionDiT, lora: LoraConfig) -> None:
    """Add trainable adapters to a frozen model, and unfreeze FULLY_TRAINED_MODULES."""
    # imported here: it takes seconds and is needed only for adapters
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    inject_adapter_in_model(
        PeftConfig(r=lora.rank, lora_alpha=int(lora.alpha), target_modules=TARGET_MODULES.pattern),
        model,
    )
    for part in FULLY_TRAINED_MODULES:
        getattr(model, part).requires_grad_(True)
    # trainable parameters are float32: small updates are lost in bfloat16
    moving: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.data = parameter.data.float()


def to_released_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors, keyed by name in the model, with the keys of a released adapter file."""
    return {
        _KEY_PREFIX + name: tensor.detach().to(torch.float32).cpu().contiguous()
        for name, tensor in tensors.items()
    }
