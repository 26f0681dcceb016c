"""Which numbers a device is fast with. Knows no network."""

import torch

from gptcli.engine.linear import has_fbgemm

_BFLOAT16_CPUS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def has_bfloat16(device: str | torch.device) -> bool:
    """Whether products in bfloat16 are the device's own; emulated ones are slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = [getattr(torch.cpu, name, None) for name in _BFLOAT16_CPUS]  # not in every version
    return any(check is not None and check() for check in checks)


def has_float16(device: str | torch.device) -> bool:
    """Whether weights in float16 are faster than float32: on a GPU, and where we have a kernel."""
    return torch.device(device).type != "cpu" or has_fbgemm()


def wants_bfloat16(precision: str, device: str) -> bool:
    """Whether products are computed in bfloat16: on demand, for "auto" where it is faster."""
    return has_bfloat16(device) if precision == "auto" else precision == "bfloat16"
