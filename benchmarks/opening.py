"""What a bundle costs before anything of it runs: its hashes, the first time and the next.

    python benchmarks/opening.py demo/out/fastv.fastv --gib 4

A copy of the bundle is made larger: golden vectors that nothing reads when a bundle answers stand for weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

from fastv_runtime import Bundle
from fastv_runtime.config.bundle import GOLDEN, MANIFEST
from fastv_runtime.integrity.hashes import sha256
from fastv_runtime.integrity.remembered import SETTLED


def enlarged(source: Path, target: Path, size: int) -> Path:
    """A copy of `size` bytes and more."""
    shutil.copytree(source, target)
    with (target / GOLDEN).open("wb") as file:
        block = hashlib.shake_256(b"").digest(1 << 24)
        for _ in range(size >> 24):
            file.write(block)
    manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][GOLDEN] = {"sha256": sha256(target / GOLDEN), "size": (target / GOLDEN).stat().st_size}
    (target / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return target


def seconds(bundle: Path, *, check_hashes: bool = False) -> float:
    began = time.perf_counter()
    Bundle.open(bundle, check_hashes=check_hashes)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="where there is room (default: the usual one for such files)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bundle = enlarged(args.bundle, Path(folder) / "large.fastv", int(args.gib * 2**30))
        time.sleep(SETTLED + 1)
        print(f"first time: {seconds(bundle):.3f} s")
        print(f"next time: {seconds(bundle):.3f} s")
        print(f"check_hashes: {seconds(bundle, check_hashes=True):.3f} s")


if __name__ == "__main__":
    main()
