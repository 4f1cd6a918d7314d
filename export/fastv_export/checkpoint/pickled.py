"""Checkpoints whose weights are pickles: never opened here, but the command that converts them is given."""

from __future__ import annotations

import shlex
from pathlib import Path

PICKLES = "pytorch_model*.bin"

# Shard by shard, whatever the architecture; copies, since tensors that share memory cannot be saved as safetensors.
_CONVERT = (
    "import json, pathlib, sys, torch, safetensors.torch as st; d = pathlib.Path(sys.argv[1]); "
    "w = {k: f.stem + '.safetensors' for f in sorted(d.glob('" + PICKLES + "')) for t in "
    "[{k: v.contiguous().clone() for k, v in torch.load(f, map_location='cpu', weights_only=True).items()}] "
    "if not st.save_file(t, f.with_suffix('.safetensors'), {'format': 'pt'}) for k in t}; "
    "(d / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': w}))"
)


def conversion(directory: str | Path) -> str:
    """Shell command that writes safetensors beside the pickles of a directory, one shard in memory at a time."""
    return f'python -c "{_CONVERT}" {shlex.quote(str(directory))}'
