"""bfloat16 where it is faster than float32.

A CPU without matrix instructions for it (AMX) computes bfloat16 slower than float32: by a third with AVX-512 BF16,
twelve times with AVX2 only.
"""

from __future__ import annotations

import torch


def half_precision(device_type: str, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16, if ``enabled`` and the device gains from it; otherwise a context that does nothing."""
    supported = device_type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled and supported)
