"""Where and in which precision things are computed."""

import torch

from gatedcir.errors import UserError


def device_of(name: str) -> torch.device:
    """The device that `--device` names; auto is the GPU if there is one.

    Raises:
        UserError: there is no such device.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name.partition(":")[0] == "cuda" and not count:
        raise UserError(f"--device {name} needs a GPU, and none is seen; give auto or cpu.")
    known = ["auto", "cpu", *["cuda"] * (count > 0), *(f"cuda:{i}" for i in range(count))]
    if name not in known:
        raise UserError(f"there is no --device {name}; choose {', '.join(known)}.")
    return torch.device(name)


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
