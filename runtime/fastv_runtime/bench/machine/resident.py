"""How much of this process's memory is resident, now and at its peak."""

from __future__ import annotations

import re
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory(status: Path = STATUS) -> int | None:
    """Most bytes that this process has had resident; None where the system does not say.

    Not `getrusage`: after a fork its maximum begins at the parent's.
    """
    return _field("VmHWM", status)


def resident_memory(status: Path = STATUS) -> int | None:
    """Bytes that are resident now; None where the system does not say."""
    return _field("VmRSS", status)


def _field(name: str, status: Path) -> int | None:
    if not status.is_file():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
