"""A checkpoint of any configuration with random weights: for speed, size and memory, not for answers.

    python benchmarks/random_checkpoint.py llava-1.5-7b OUT
    python benchmarks/random_checkpoint.py CONFIG.json OUT --dtype bf16 --seed 1 --shard-size 2GiB
    python benchmarks/random_checkpoint.py llava-1.5-13b OUT --sparse

The model is never in memory: its parameters are listed on the meta device and each is streamed to its shard. Their
values are one block of noise, tiled and scaled (see random_weights.py). With --sparse there are no values at all: shards
of full size that occupy no disk, enough to trace from. Exit codes: 2 for bad input, 1 for a failure.
"""

from __future__ import annotations

import argparse
import errno
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from configurations import CONFIGURATIONS, configuration
from random_processor import write_image_processor, write_tokenizer
from random_weights import DTYPES, Shapes, plan_shards, write_shards

from fastv_export.progress import Progress
from fastv_runtime.cli.console import command, stderr
from fastv_runtime.errors import UserError

SHARD_SIZE = 4 << 30
TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def write_random_checkpoint(
    config: Any,
    out: Path,
    *,
    dtype: str = "fp16",
    seed: int = 0,
    shard_size: int = SHARD_SIZE,
    sparse: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a random checkpoint of a transformers config to `out`, which must not exist; whole or not at all.

    `shard_size` in bytes. Raises UserError for a path or a disk that cannot take it.
    """
    if out.exists():
        raise UserError(f"{out}: already exists: remove it, or give another OUT")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UserError(f"{parent}: no such directory: make it first")
    model = build_on_meta(config)
    shapes = saved_shapes(model)
    width = np.dtype(DTYPES[dtype][1]).itemsize
    total = sum(prod(shape) for shape in shapes.values()) * width
    if not sparse:
        _check_space(parent, total)
    with _staging(out) as staging, (progress or Progress(None)).weights(f"write {out.name}", total) as written:
        model.config.dtype = TORCH_NAMES[dtype]
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(staging)
        model.generation_config.save_pretrained(staging)
        write_tokenizer(staging, config)
        write_image_processor(staging, config)
        shards = plan_shards(shapes, width, shard_size)
        write_shards(staging, shards, dtype, seed, sparse=sparse, written=written)


def build_on_meta(config: Any) -> Any:
    """transformers' model of a config, without memory for its parameters."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def saved_shapes(model: Any) -> Shapes:
    """Shapes by the names that `save_pretrained` writes: tied parameters once, transformers 5's renames undone."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = remove_tied_weights_from_state_dict(model.state_dict(), model)
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


def _check_space(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{parent}: the weights need {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: "
            "make room, give another OUT, or --sparse if only shapes matter"
        )


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A directory on the same disk that becomes `out` at the end, and vanishes if anything goes wrong before."""
    parent = out.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-", dir=parent) as scratch:
            staging = Path(scratch) / out.name
            staging.mkdir()
            yield staging
            staging.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{parent}: the disk is full: make room, or give another OUT") from None
        raise


def load_config(source: str) -> Any:
    """The config that NAME, CONFIG.json or DIR names."""
    from transformers import AutoConfig

    if source in CONFIGURATIONS:
        return configuration(source)
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: neither a file nor a known configuration; known: {', '.join(CONFIGURATIONS)}")
    return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def byte_size(text: str) -> int:
    """Bytes of a size such as 4GiB, 500MB or 1048576."""
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    size = int(match[1]) * UNITS.get(match[2], 0) if match else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give one such as 4GiB or 500MB")
    return size


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="random_checkpoint.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("config", metavar="NAME|CONFIG.json|DIR", help="known names: " + ", ".join(CONFIGURATIONS))
    result.add_argument("out", metavar="OUT", type=Path)
    result.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--shard-size", type=byte_size, default=SHARD_SIZE, metavar="SIZE", help="default: 4GiB")
    result.add_argument("--sparse", action="store_true", help="shards of full size without values, to trace from")
    return result


def run(args: argparse.Namespace) -> None:
    # A terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    config = load_config(args.config)
    with Progress(stderr) as progress:
        write_random_checkpoint(
            config,
            args.out,
            dtype=args.dtype,
            seed=args.seed,
            shard_size=args.shard_size,
            sparse=args.sparse,
            progress=progress,
        )


def main(argv: Sequence[str] | None = None) -> None:
    command(parser(), run, argv)


if __name__ == "__main__":
    main()
