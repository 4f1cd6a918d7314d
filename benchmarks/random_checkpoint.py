"""A checkpoint of any configuration with random weights: for speed, size and memory, not for answers.

    python benchmarks/random_checkpoint.py llava-1.5-7b OUT
    python benchmarks/random_checkpoint.py CONFIG.json OUT --dtype bf16 --seed 1 --shard-size 2GiB
    python benchmarks/random_checkpoint.py llava-1.5-13b OUT --sparse

The model is never in memory: its parameters are listed on the meta device and each is streamed to its shard. Their
values are one block of noise, tiled and scaled (see random_weights.py), not a draw for each. With --sparse there are
no values at all: shards of full size that occupy no disk, enough to trace from. Beside the weights lie config,
generation config, a tokenizer of meaningless words and the family's image processor. Exit codes: 2 for bad input, 1
for a failure.
"""

from __future__ import annotations

import argparse
import errno
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import random_qwen_vl_chat
from configurations import CONFIGURATIONS, WITHOUT_CLASS, as_config, configuration
from random_processor import check_known, write_image_processor, write_tokenizer
from random_weights import DTYPES, Shapes, nbytes, plan_shards, write_shards

from fastv_export.progress import Progress
from fastv_runtime.console import command, stderr
from fastv_runtime.errors import UserError

SHARD_SIZE = 4 << 30
TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


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
    """Write a random checkpoint of a config to `out`, which must not exist; whole or not at all.

    `config` as `configurations.as_config` gives it, `dtype` of DTYPES, `shard_size` in bytes. Raises UserError for a
    config, a path or a disk that cannot take it.
    """
    if out.exists():
        raise UserError(f"{out}: already exists: remove it, or give another OUT")
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UserError(f"{parent}: no such directory: make it first")
    shapes, write_beside = _contents(config)
    total = sum(nbytes(name, shape, dtype) for name, shape in shapes.items())
    if not sparse:
        _check_space(parent, total)
    with _staging(out) as staging, (progress or Progress(None)).weights(f"write {out.name}", total) as written:
        write_beside(staging, TORCH_NAMES[dtype])
        write_shards(staging, plan_shards(shapes, dtype, shard_size), dtype, seed, sparse=sparse, written=written)


def _contents(config: Any) -> tuple[Shapes, Callable[[Path, str], None]]:
    """The tensors of a checkpoint by name, and what writes its other files into a directory, given torch's dtype."""
    if isinstance(config, dict):
        return random_qwen_vl_chat.parameter_shapes(config), lambda path, dtype: random_qwen_vl_chat.write_beside(
            path, config, dtype
        )
    check_known(config.model_type)
    model = build_on_meta(config)

    def write_beside(path: Path, dtype: str) -> None:
        model.config.dtype = dtype
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(path)
        model.generation_config.save_pretrained(path)
        write_tokenizer(path, config)
        write_image_processor(path, config)

    return saved_shapes(model), write_beside


def build_on_meta(config: Any) -> Any:
    """transformers' model of a config, without memory for its parameters."""
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except ImportError as error:
        # transformers names the missing library and its pip command.
        raise UserError(f"model type {config.model_type!r}: {error}") from None


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
    if source in CONFIGURATIONS:
        return configuration(source)
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: neither a file nor a known configuration; known: {', '.join(CONFIGURATIONS)}")
    file = path / "config.json" if path.is_dir() else path
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        model_type = entry["model_type"]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}: give a config.json or its directory") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not a JSON object that names its model_type: give a model's config.json") from None
    if model_type not in WITHOUT_CLASS:
        check_known(model_type)
    return as_config(entry)


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
