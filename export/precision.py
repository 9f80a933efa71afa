"""bfloat16 where it is faster than float32.

A CPU without instructions for it (AVX-512 BF16 or AMX) computes bfloat16 twelve times slower than float32.
"""

from __future__ import annotations

import torch


def half_precision(device_type: str, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16, if ``enabled`` and the device has it in hardware; otherwise a context that does nothing."""
    supported = device_type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled and supported)
