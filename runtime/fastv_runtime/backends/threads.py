"""How many threads an operator gets on the CPU."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads() -> int:
    """One per physical core that this process may run on.

    ONNX Runtime's own default counts the machine's cores, not the process's, and pins threads to them: in containers
    and virtual machines it was seen to be no faster than one thread.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    smt = Path("/sys/devices/system/cpu/smt/active")
    siblings = 2 if smt.is_file() and smt.read_text(encoding="utf-8").strip() == "1" else 1
    return max(1, usable // siblings)
