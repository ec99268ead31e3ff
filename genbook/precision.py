"""Matrix products in bfloat16, where the machine has instructions for them.

bfloat16 has the range of single precision and 8 of its 24 bits. A product takes half the time or
less; its sums are kept in single precision by the hardware, its factors and its result are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_fast(device: str | torch.device) -> bool:
    """Whether this device multiplies in bfloat16 faster than in single precision: processors with
    AVX-512 BF16 or AMX, and GPUs from Ampere on."""
    match torch.device(device).type:
        case "cpu":
            return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case _:
            return False


def products(device: str | torch.device, *, half: bool) -> torch.autocast:
    """A context in which layers multiply in bfloat16 (torch's autocast), if `half` and if that is
    fast here; else one that changes nothing.  Weights and their gradients are single precision."""
    where = torch.device(device)
    return torch.autocast(where.type, torch.bfloat16, enabled=half and is_fast(where))


def single_results(*layers: nn.Module) -> None:
    """Let these layers give single precision also in that context: what is computed from them, as a
    divergence or a likelihood, is then computed as without it."""
    for layer in layers:
        layer.register_forward_hook(_single)


def _single(layer: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> Tensor:
    return result.float() if result.dtype == torch.bfloat16 else result
