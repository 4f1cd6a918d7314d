"""What large, thin and tall images cost before the model sees them: peak resident memory and seconds, by layout.

    python benchmarks/image_memory.py
    python benchmarks/image_memory.py --layouts crop pad --cases thin-1000 tall-1080x12000

Each figure is from a process of its own that opens one file, makes it ready and draws it as the model sees it: MB above
those of a usual image (640 x 480). Run it with PYTHONPATH at another checkout's `runtime` to compare the two.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

LIMIT = 6 * 10**9
"""Bytes of address space of each process."""
USUAL = "usual-640x480"


def thin_png(path: Path, height: int) -> None:
    """1 pixel wide: about a hundred bytes."""
    rows = zlib.compress(b"\0\0" * height, 9)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def photo(path: Path, width: int, height: int, kind: str, **options: Any) -> None:
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(path, kind, **options)


CASES: dict[str, Callable[[Path], None]] = {
    USUAL: lambda path: photo(path, 640, 480, "JPEG"),
    "thin-1000": lambda path: thin_png(path, 1000),
    "thin-10000": lambda path: thin_png(path, 10000),
    "thin-100000": lambda path: thin_png(path, 100000),
    "tall-1080x12000": lambda path: photo(path, 1080, 12000, "PNG", compress_level=1),
    "jpeg-12MP": lambda path: photo(path, 4000, 3000, "JPEG"),
    "jpeg-48MP": lambda path: photo(path, 8000, 6000, "JPEG"),
    "jpeg-48MP-progressive": lambda path: photo(path, 8000, 6000, "JPEG", progressive=True),
    "jpeg-96MP": lambda path: photo(path, 12000, 8000, "JPEG"),
    "png-16MP": lambda path: photo(path, 4000, 4000, "PNG", compress_level=1),
    "png-48MP": lambda path: photo(path, 8000, 6000, "PNG", compress_level=1),
    "png-96MP": lambda path: photo(path, 12000, 8000, "PNG", compress_level=1),
    "webp-16MP": lambda path: photo(path, 4000, 4000, "WEBP", method=0),
    "avif-16MP": lambda path: photo(path, 4000, 4000, "AVIF", speed=10),
    "jp2-12MP": lambda path: photo(path, 4000, 3000, "JPEG2000"),
    "tiff-22MP": lambda path: photo(path, 5500, 4000, "TIFF", compression="tiff_deflate", strip_size=1 << 30),
}
LAYOUTS = ("crop", "pad", "anyres", "patches", "tiles", "split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--one", nargs=2, metavar=("LAYOUT", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], Path(args.one[1]))
        return
    print(f"| image | {' | '.join(args.layouts)} |")
    print("| --- " * (len(args.layouts) + 1) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        usual = {layout: in_own_process(layout, USUAL, Path(folder)) for layout in args.layouts}
        for case in args.cases:
            if case == USUAL:
                continue
            cells = []
            for layout in args.layouts:
                found, base = in_own_process(layout, case, Path(folder)), usual[layout]
                if isinstance(found, str) or isinstance(base, str):
                    cells.append(str(found))
                else:
                    cells.append(f"{max(0, found[0] - base[0]):.0f} MB, {found[1]:.1f} s")
            print(f"| {case} | {' | '.join(cells)} |", flush=True)


def in_own_process(layout: str, case: str, folder: Path) -> tuple[float, float] | str:
    """Peak MB and seconds, or why there are none."""
    path = folder / case
    if not path.exists():
        CASES[case](path)
    command = [sys.executable, __file__, "--one", layout, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return f"above {LIMIT // 10**9} GB" if "MemoryError" in done.stderr else "killed"
    if lines[-1].startswith("refused"):
        return "refused"
    peak, seconds = map(float, lines[-1].split())
    return peak, seconds


def measure(layout: str, file: Path) -> None:
    """In a process of its own: print peak MB and seconds, or that the image is refused."""
    import resource
    import warnings

    from fastv_runtime import UserError
    from fastv_runtime.preprocessing import load_images
    from fastv_runtime.preprocessing.images.loading import open_image

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    with tempfile.TemporaryDirectory() as folder:
        seen = load_images(Path(folder), processor(layout, Path(folder)))
        start = time.perf_counter()
        try:
            seen(open_image(file)).views()
        except UserError as error:
            if "MemoryError" in str(error):
                raise
            print(f"refused: {error}")
            return
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    print(peak * 1024 / 1e6, seconds)


def processor(layout: str, folder: Path) -> Any:
    """A published model's image processor of each layout, written to `folder`, and how its images are laid out."""
    from fastv_runtime.config.layouts import AnyresVision, FixedVision, PatchesVision
    from fastv_runtime.config.tile_layouts import TilesVision, TileText

    crop = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    written: dict[str, dict[str, Any]] = {
        "crop": {"image_processor_type": "CLIPImageProcessor", **crop},  # LLaVA-1.5
        "pad": {"image_processor_type": "CLIPImageProcessor", **crop},
        "anyres": {"image_processor_type": "LlavaNextImageProcessor", **crop},  # LLaVA-1.6
        "patches": {"image_processor_type": "Qwen2VLImageProcessor"},  # Qwen2-VL
        "tiles": {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": 448, "width": 448}},  # InternVL3
        "split": {"image_processor_type": "Idefics3ImageProcessor"},  # SmolVLM
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(written[layout]), encoding="utf-8")
    if layout in ("crop", "pad"):
        aspect: Literal["crop", "pad"] = "pad" if layout == "pad" else "crop"
        return FixedVision(image_height=336, image_width=336, rows=24, columns=24, aspect=aspect)
    if layout == "anyres":
        pinpoints = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
        return AnyresVision(tile=336, side=24, pinpoints=pinpoints)
    if layout == "patches":
        return PatchesVision(channels=3, patch=14, frames_per_patch=2, merge=2, max_tokens=576)
    if layout == "tiles":
        settings: dict[str, bool | int | dict[str, int]] = {"crop_to_patches": True, "max_patches": 12}
        return TilesVision(tile=448, side=16, max_tiles=13, settings=settings, text=TileText())
    return TilesVision(tile=364, side=9, max_tiles=17, settings={"return_row_col_info": True}, text=TileText())


if __name__ == "__main__":
    main()
