"""The device and the precision of computations."""

from dataclasses import dataclass

import torch

from gatedcir.errors import UserError


def find_device(name: str) -> torch.device:
    """The device that `--device` names. auto is the GPU if there is one.

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


@dataclass(frozen=True)
class Device:
    """A device, and the type to autocast to on it. None means float32 everywhere."""

    device: torch.device
    precision: torch.dtype | None = None

    @classmethod
    def of(cls, mixed_precision: str, device: torch.device) -> "Device":
        """A device in the precision that an option names: auto, fp32, bf16 or fp16."""
        if mixed_precision == "auto":
            mixed_precision = "bf16" if _computes_in_bf16(device) else "fp32"
        return cls(device, PRECISIONS[mixed_precision])

    @property
    def name(self) -> str:
        """The name of the type in which it computes, such as `float32`."""
        return name_of(self.precision or torch.float32)

    def autocast(self) -> torch.autocast:
        """A context in which matrix products run in the precision."""
        return torch.autocast(
            self.device.type, dtype=self.precision, enabled=self.precision is not None
        )


PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU = Device(torch.device("cpu"))


def name_of(dtype: torch.dtype) -> str:
    """A type's name.

    >>> name_of(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def _computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has bf16 instructions. Emulated bf16 would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)
