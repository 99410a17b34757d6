"""Where and in which precision things are computed."""

import torch


def precision_of(mixed_precision: str, device: torch.device) -> torch.dtype | None:
    """The type to autocast to on a device, or None for float32 throughout."""
    if mixed_precision == "auto":
        if device.type == "cuda":
            computes = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            computes = _cpu_computes_in_bf16()
        return torch.bfloat16 if computes else None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]


def _cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for it; emulated, it would be slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def autocast(device: torch.device, precision: torch.dtype | None) -> torch.autocast:
    """A context in which matrix products run in `precision`; None changes nothing."""
    return torch.autocast(device.type, dtype=precision, enabled=precision is not None)
