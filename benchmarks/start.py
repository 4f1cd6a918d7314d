"""How long fastv-run takes from its start to its first token, and to print its help.

    python benchmarks/start.py demo.fastv --image demo/images/scene3.png

Each number is of processes of their own, one after another. Processor time is what a busy machine changes least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

RUN = [sys.executable, "-m", "fastv_runtime.cli.run"]


def first_byte(command: list[str]) -> tuple[float, float]:
    """Milliseconds from the start of a process to the first byte that it prints; and of processors, to its end."""
    before = os.times()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    elapsed = time.perf_counter() - start
    process.stdout.read()
    process.stdout.close()
    if process.wait() != 0:
        raise SystemExit(f"exit code {process.returncode}: {' '.join(command)}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return 1000 * elapsed, 1000 * used


def main() -> None:
    parser = argparse.ArgumentParser(description="Time from process start to the first token.")
    parser.add_argument("bundle")
    parser.add_argument("--image", required=True)
    parser.add_argument("--prompt", default="Tell me about the white object.")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    ask = [*RUN, args.bundle, "--image", args.image, "--prompt", args.prompt, "--threads", "1"]
    for name, command in (("first token", ask), ("--help", [*RUN, "--help"])):
        first_byte(command)  # files are in the page cache from here on
        measured = [first_byte(command) for _ in range(args.repeats)]
        elapsed, used = zip(*measured, strict=True)
        print(
            f"{name}: {min(elapsed):.0f} ms at least, {statistics.median(elapsed):.0f} ms in the median; "
            f"processor time of the whole process {min(used):.0f} and {statistics.median(used):.0f} ms"
        )


if __name__ == "__main__":
    main()
