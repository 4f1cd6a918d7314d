"""What a Jetson says of itself: board, release, power mode."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

RELEASE = Path("/etc/nv_tegra_release")
MODEL = Path("/proc/device-tree/model")


def board(model: Path = MODEL, release: Path = RELEASE) -> str | None:
    """The board's name as its device tree has it; None on anything that is no Jetson."""
    if not release.is_file() or not model.is_file():
        return None
    return model.read_text(encoding="utf-8").rstrip("\0\n")


def l4t(release: str) -> str | None:
    """Version of Jetson Linux in the text of /etc/nv_tegra_release: "36.4.4"."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else None


def power_mode(output: str) -> str | None:
    """The mode's name in what `nvpmodel -q` prints. Names are the same on all boards of a kind, numbers are not."""
    found = re.search(r"^NV Power Mode:\s*(\S+)", output, re.MULTILINE)
    return found[1] if found else None


def jetson_facts() -> dict[str, str]:
    """L4T, JetPack and power mode, as far as they can be told; empty on anything that is no Jetson."""
    if board() is None:
        return {}
    facts = {
        "l4t": l4t(RELEASE.read_text(encoding="utf-8")),
        "jetpack": _output("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"),
        "power_mode": power_mode(_output("nvpmodel", "-q") or ""),
    }
    return {name: value for name, value in facts.items() if value}


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
