"""Where half precision pays: on devices that compute in it, and nowhere else.

A CPU without such instructions imitates them: a step of the small autoencoder took thirty times
as long on one.
"""

import torch

BF16_CAPABILITIES = ('avx512_bf16', 'amx_bf16', 'bf16')  # capabilities of x86 and ARM processors


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 by itself; False where nobody knows."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == 'cpu' and hasattr(torch.cpu, 'get_capabilities'):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in BF16_CAPABILITIES)
    return False
