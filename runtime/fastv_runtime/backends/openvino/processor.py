"""What this processor computes in, and where OpenVINO's kernels for it end the process."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from fastv_runtime.backends.threads import default_threads
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError

CPUINFO = Path("/proc/cpuinfo")
WHOLE_ROW = 2**31
"""More inputs than any product has."""
ONE_THREAD = "OpenVINO 2026.4 divides by zero where one thread computes so on a processor with AMX (issue 33300)"


def choose_compute(core: Any, asked: str | None, plan: Plan, threads: int | None) -> tuple[str, list[str]]:
    """What kernels compute in, by OpenVINO's names, and what to say of it.

    Where nobody asks: bf16 for weights of fp16 where the processor has it, else f32: bf16 would add its rounding to
    that of weights of few bits (docs/openvino.md). Raises UserError for what the processor has not, and for what would
    end the process.
    """
    known = capabilities(core)
    if asked is not None and asked not in known:
        raise UserError(f"`compute` {asked}: this processor has no such products: use f32")
    whole = plan.weights is None and plan.precision != "float32"
    own = "bf16" if whole and "bf16" in known else "f32"
    if (asked or own) == "f32" or not fails(plan, threads):
        return asked or own, []
    if asked is not None:
        raise UserError(f"`compute` {asked}: {ONE_THREAD}: use f32, or two `threads`")
    return "f32", [f"computed in f32, for {ONE_THREAD}: it is slower than with two `threads`"]


def gpu_compute(asked: str | None, plan: Plan) -> str:
    """The same of Intel's GPUs. Raises UserError for what these have no products of."""
    if asked == "bf16":
        raise UserError("`compute` bf16: GPUs have no such products here: use f16 or f32")
    return asked or ("f32" if plan.precision == "float32" else "f16")


def fails(plan: Plan, threads: int | None) -> bool:
    """Whether the one operator that OpenVINO makes of an MLP whose weights are whole would have one thread.

    It gives half of the threads to one of its products: none of one.
    """
    return plan.weights is None and usable(threads) == 1 and has_amx()


def rounding_group(compute: str, threads: int | None) -> int | None:
    """Inputs of a product that share a range where kernels round them to eight bits; None: as many as the file says.

    Where tiles multiply bf16, OpenVINO rounds nothing in groups. It rounds rows, if it may, for the one operator that
    it makes of an MLP whose weights have a scale an output: tiles then multiply bytes. 0: for one thread, see `fails`.
    """
    if compute == "f32" or not has_amx():
        return None
    return WHOLE_ROW if usable(threads) > 1 else 0


def usable(threads: int | None) -> int:
    """How many threads OpenVINO has of those that it is given: no more than processors for this process."""
    wanted = threads or default_threads()
    return min(wanted, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else wanted


def capabilities(core: Any) -> list[str]:
    """What the processor computes in, by OpenVINO's names."""
    known = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}
    return [known[each] for each in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") if each in known]


@cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles (Intel's AMX); True where the system does not say."""
    try:
        return " amx_tile" in CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
