"""What engines are built for: a GPU at hand, or with TensorRT-RTX compute capabilities alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fastv_runtime.backends.tensorrt.gpu import Gpu
from fastv_runtime.backends.tensorrt.module import TensorRt
from fastv_runtime.config.plan import Precision, Weights
from fastv_runtime.errors import UserError, install

BF16_SINCE = 80
"""Tensor cores multiply bfloat16 since Ampere."""
FLOATS_SINCE = {"fp8": 89, "nvfp4": 100}
"""E4M3 since Ada, E2M1 since Blackwell. TensorRT-RTX builds neither for what is older."""


@dataclass(frozen=True)
class Device:
    """Engines of one TensorRT that run on one of `capabilities`; those of TensorRT proper only on a GPU like `gpu`."""

    tensorrt: TensorRt
    name: str
    """Of the folder in `engines/`."""
    capabilities: tuple[str, ...]
    gpu: Gpu | None
    """The GPU at hand if the engines run on it, so that they can be tested; None otherwise."""


def choose_device(tensorrt: TensorRt, gpu: Gpu | None, capabilities: Sequence[str] = ()) -> Device:
    """The device that engines are built for.

    capabilities: what the user asks for (SM86 or 8.6), for TensorRT-RTX; by default that of the GPU at hand.
    """
    if not tensorrt.is_rtx:
        if capabilities:
            raise UserError("`capabilities`: TensorRT builds for the GPU at hand: only TensorRT-RTX takes it")
        if gpu is None:
            raise UserError(
                "no GPU is at hand, and TensorRT builds on the device that runs the engines: run fastv-build there; "
                f"if there is one, see whether cuda-python is installed: {install('trt')}"
            )
        return local_device(tensorrt, gpu)
    known = tensorrt.capabilities()
    if not capabilities:
        if gpu is None:
            raise UserError(
                "no GPU is at hand: say what to build for, `capabilities` and one or more of " + ", ".join(known)
            )
        if gpu.capability not in known:
            raise UserError(
                f"{gpu.name} is {gpu.capability}, which {tensorrt.title} does not build for "
                f"(it knows {', '.join(known)}): use `target` trt"
            )
        return local_device(tensorrt, gpu)
    wanted = sorted({_normalised(each) for each in capabilities}, key=lambda name: int(name[2:] or 0))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(
            f"`capabilities` {unknown[0]}: {tensorrt.title} does not build for it; it knows {', '.join(known)}"
        )
    return Device(
        tensorrt,
        name="-".join(["rtx", *(name.lower() for name in wanted)]),
        capabilities=tuple(wanted),
        gpu=gpu if gpu is not None and gpu.capability in wanted else None,
    )


def local_device(tensorrt: TensorRt, gpu: Gpu) -> Device:
    """The GPU at hand as a device."""
    if tensorrt.is_rtx:
        return Device(tensorrt, f"rtx-{gpu.capability.lower()}", (gpu.capability,), gpu)
    # Boards of one family share a name; engines are tuned to the number of multiprocessors.
    parts = ("trt", gpu.name, gpu.capability, f"{gpu.multiprocessors}mp")
    return Device(tensorrt, re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()), (gpu.capability,), gpu)


def check_precision(device: Device, precision: Precision) -> None:
    """UserError if a device does not compute in a precision."""
    too_old = [name for name in device.capabilities if int(name[2:]) < BF16_SINCE]
    if precision == "bfloat16" and too_old:
        raise UserError(f"{too_old[0]} does not compute in bfloat16: export again with `export.precision` fp16")


def computes(capability: str, weights: Weights | None) -> bool:
    """Whether GPUs of a compute capability multiply weights of few bits as they are."""
    return weights is None or int(capability[2:]) >= FLOATS_SINCE.get(weights.name, 0)


def check_weights(device: Device, weights: Weights | None) -> None:
    """UserError if a device does not multiply a bundle's weights of few bits."""
    too_old = [name for name in device.capabilities if not computes(name, weights)]
    if weights is not None and too_old:
        raise UserError(
            f"{too_old[0]} does not compute in {weights.name}, which GPUs do since SM{FLOATS_SINCE[weights.name]}: "
            f"export again with `export.precision` {_instead(too_old[0])}"
        )


def _instead(capability: str) -> str:
    return "fp8, int8 or fp16" if int(capability[2:]) >= FLOATS_SINCE["fp8"] else "int8 or fp16"


def _normalised(capability: str) -> str:
    digits = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", capability.strip().lower())
    if digits is None:
        raise UserError(f"`capabilities` {capability}: not one: give it as SM86 or 8.6")
    return f"SM{digits[1]}{digits[2]}"
