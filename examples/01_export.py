"""Export the demo checkpoint: prune half of the visual tokens after layer 2.

python examples/01_export.py out
"""

import sys
from pathlib import Path

from rich.console import Console

from fastv_export import Progress, export

CHECKPOINT = Path(__file__).resolve().parents[1] / "demo" / "checkpoint"

if len(sys.argv) != 2:
    sys.exit("usage: python examples/01_export.py FOLDER")
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
with Progress(Console(stderr=True)) as progress:  # leave it out for a quiet export
    manifest = export(CHECKPOINT, folder / "pruned.fastv", layer=2, keep=0.5, precision="fp32", progress=progress)
print(f"{folder / 'pruned.fastv'}: {', '.join(manifest.graphs)}")
print(f"largest difference from transformers: {max((manifest.verified or {}).values()):.1e}")
