"""Low-rank adapters in training: put into a transformer by peft, written as released ones are.

Besides the adapters the encoders and the decoder of state and action are trained whole: another
robot means other numbers there.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wam_policy.model.checkpoint import tensor_keymap
from wam_policy.model.network.lora import TARGET_MODULES, LoraConfig
from wam_policy.model.network.video_action_dit import VideoActionDiT

FULLY_TRAINED_MODULES = ('state_encoder', 'action_encoder', 'action_decoder')
_KEY_PREFIX = tensor_keymap.DIT_PREFIX + 'base_model.model.'


def make_lora_config(rank: int) -> LoraConfig:
    """Give the configuration of a rank; adapters act at full strength, as in the releases."""
    if rank < 1:
        raise ValueError(f'lora rank {rank}: want at least 1')
    return LoraConfig(rank, float(rank))


def inject(model: VideoActionDiT, lora: LoraConfig) -> None:
    """Put trainable adapters into a frozen model, and free what is trained whole."""
    # imported here: it takes seconds that training without adapters does not need
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    inject_adapter_in_model(
        PeftConfig(r=lora.rank, lora_alpha=int(lora.alpha), target_modules=TARGET_MODULES.pattern),
        model,
    )
    for part in FULLY_TRAINED_MODULES:
        getattr(model, part).requires_grad_(True)
    # what moves is float32, however the base is stored: small steps vanish in bfloat16
    moving: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.data = parameter.data.float()


def to_released_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name trained tensors (by their names in the model) as a released adapter file does."""
    return {
        _KEY_PREFIX + name: tensor.detach().to(torch.float32).cpu().contiguous()
        for name, tensor in tensors.items()
    }
