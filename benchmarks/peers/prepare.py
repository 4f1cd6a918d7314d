"""Write the checkpoint that all runners load, convert it for the peers, and write their peer files.

    cd benchmarks
    python -m peers.prepare --out DIR --environments ENVIRONMENTS
    python -m peers.prepare --out DIR --environments ENVIRONMENTS --peer openvino-genai --precision int8

DIR gets `checkpoint`, `image.png`, one directory per peer with a model per precision, and `peers/NAME.json` for
`fastv-bench --peer`. What is there already is not made again. ENVIRONMENTS has one virtual environment per peer, as
docs/peers.md sets them up. Needs the extra export; exit codes: 2 for bad input, 1 for a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastv_export.progress import Progress
from fastv_runtime.config.bundle import sha256
from fastv_runtime.console import command, stderr
from fastv_runtime.errors import UserError
from peers.checkpoint import PIXELS, QUESTION, write_checkpoint, write_image
from peers.lines import PRECISIONS, RECEIPT

BENCHMARKS = Path(__file__).resolve().parent.parent
BLOCK = 128
"""Of int4 weights: what the tools that convert take by default, and divides both widths of the model."""


@dataclass(frozen=True)
class Recipe:
    """How a peer is prepared and started."""

    module: str
    convert: Callable[[Path, Path, str, Path], str]
    """(checkpoint, out, precision, environments): write the model to `out`; returns what it was made with."""
    precisions: tuple[str, ...] = PRECISIONS
    prunes: bool = False


def convert_onnxruntime(checkpoint: Path, out: Path, precision: str, environments: Path) -> str:
    """The runtime's model builder, head on the last row alone; eight and four bits symmetric, in blocks."""
    python = environment(environments, "onnxruntime-genai")
    blocks = [] if precision == "fp32" else [f"block_size={BLOCK}", "accuracy_level=4"]
    chosen = ["prune_lm_head=true", *blocks]
    script = ["env", f"PYTHONPATH={BENCHMARKS}", str(python), "-m", "peers.to_onnxruntime_genai"]
    execute([*script, checkpoint, out, precision, str(PIXELS), *chosen])
    return made_with(python, "onnxruntime-genai", "torch", "transformers") + f" ({' '.join(chosen)}; vision fp32)"


def convert_openvino(checkpoint: Path, out: Path, precision: str, environments: Path) -> str:
    """optimum-intel: int8 per output channel, int4 in blocks with eight bits for embedding and head, asymmetric."""
    python = environment(environments, "optimum-intel")
    blocks = ["--group-size", str(BLOCK), "--ratio", "1.0"] if precision == "int4" else []
    arguments = ["--task", "image-text-to-text", "--weight-format", precision, *blocks]
    execute([python.with_name("optimum-cli"), "export", "openvino", "-m", checkpoint, *arguments, out])
    return made_with(python, "optimum-intel", "nncf", "openvino", "transformers") + f" ({' '.join(arguments[2:])})"


def convert_llama(checkpoint: Path, out: Path, precision: str, environments: Path) -> str:
    """llama.cpp's converter, of a checkout of it in `llama.cpp-source`: blocks of 32, symmetric; vision in fp32."""
    python, source = environment(environments, "llama.cpp"), environments.absolute() / "llama.cpp-source"
    if not (source / "convert_hf_to_gguf.py").is_file():
        raise UserError(f"{source}: no checkout of llama.cpp: docs/peers.md says how to make it")
    execute(["env", f"PYTHONPATH={BENCHMARKS}", python, "-m", "peers.to_gguf", source, checkpoint, out, precision])
    project = (source / "gguf-py" / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    written = {"fp32": "f32", "int8": "q8_0", "int4": "q4_0, embedding and head q8_0"}[precision]
    return f"convert_hf_to_gguf.py of gguf {found[1] if found else 'unknown'}, " + (
        made_with(python, "torch", "transformers") + f" ({written}; vision f32)"
    )


def link_checkpoint(checkpoint: Path, out: Path, precision: str, environments: Path) -> str:
    """Nothing to convert: it reads the checkpoint itself."""
    out.mkdir()
    for file in checkpoint.iterdir():
        (out / file.name).symlink_to(os.path.relpath(file, out))
    return "the checkpoint itself"


RECIPES = {
    "llama.cpp": Recipe("peers.llama_cpp", convert_llama),
    "onnxruntime-genai": Recipe("peers.onnxruntime_genai", convert_onnxruntime),
    "openvino-genai": Recipe("peers.openvino_genai", convert_openvino, prunes=True),
    "transformers": Recipe("peers.transformers", link_checkpoint, precisions=("fp32",)),
}


def run(args: argparse.Namespace) -> None:
    checkpoint, image = args.out / "checkpoint", args.out / "image.png"
    args.out.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        with Progress(stderr) as progress:
            write_checkpoint(checkpoint, progress)
    write_image(image)
    digest = sha256(checkpoint / "model.safetensors")
    for name in args.peer or RECIPES:
        recipe = RECIPES[name]
        for precision in args.precision or recipe.precisions:
            if precision not in recipe.precisions:
                raise UserError(f"--precision {precision}: {name} has {', '.join(recipe.precisions)}")
            model = args.out / name / precision
            prepare(recipe, checkpoint, model, precision, args.environments, digest)
            for keep in (1.0, 0.5) if recipe.prunes else (1.0,):
                write_peer_file(args.out / "peers", name, recipe, model, precision, keep, args.environments)
    stderr.print(f"ask with: --image {image} --prompt '{QUESTION}'", highlight=False, soft_wrap=True)


def prepare(recipe: Recipe, checkpoint: Path, model: Path, precision: str, environments: Path, digest: str) -> None:
    """Convert the checkpoint, unless that was done; the receipt comes last, so that a broken run is done again."""
    if (model / RECEIPT).exists():
        return
    if model.exists():
        shutil.rmtree(model)
    model.parent.mkdir(parents=True, exist_ok=True)
    made = recipe.convert(checkpoint.absolute(), model.absolute(), precision, environments)
    receipt = {"precision": precision, "checkpoint": digest, "made with": made}
    (model / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def write_peer_file(
    folder: Path, name: str, recipe: Recipe, model: Path, precision: str, keep: float, environments: Path
) -> None:
    """What fastv-bench starts; paths are absolute, so that it may be started from anywhere."""
    called = f"{name}-{precision}" + ("" if keep == 1 else f"-keep{round(100 * keep)}")
    arguments = ["--model", str(model.absolute()), "--precision", precision, "--keep", f"{keep:g}"]
    started = ["env", f"PYTHONPATH={BENCHMARKS}", str(environment(environments, name)), "-m", recipe.module, *arguments]
    folder.mkdir(exist_ok=True)
    peer = {"name": called, "weights": precision, "command": started}
    (folder / f"{called}.json").write_text(json.dumps(peer, indent=2) + "\n", encoding="utf-8")


def environment(environments: Path, name: str) -> Path:
    """The Python of an environment. Raises UserError if there is none."""
    python = environments.absolute() / name / "bin" / "python"
    if not python.exists():
        raise UserError(f"{python}: no such environment: docs/peers.md says how to make it")
    return python


def execute(arguments: Sequence[str | Path]) -> None:
    """Run a converter, offline. Raises UserError with the end of what it said if it fails."""
    stderr.print("+ " + " ".join(map(str, arguments)), highlight=False, soft_wrap=True)
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(arguments, env=offline, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise UserError(f"{Path(arguments[0]).name} ended with code {done.returncode}:\n{said}")


def made_with(python: Path, *packages: str) -> str:
    """Versions of packages in an environment."""
    script = "import sys, importlib.metadata as m; print(*(f'{p} {m.version(p)}' for p in sys.argv[1:]), sep=', ')"
    return subprocess.run([python, "-c", script, *packages], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="peers.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--environments", type=Path, required=True, metavar="DIR")
    parser.add_argument("--peer", action="append", choices=list(RECIPES), help="default: all")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all that the peer has")
    command(parser, run, sys.argv[1:])


if __name__ == "__main__":
    main()
