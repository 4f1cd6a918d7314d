"""A model repository for Triton, as its Python backend asks for it: NAME/config.pbtxt and NAME/1/model.py."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fastv_runtime.claims import Note, claimed, silent
from fastv_runtime.config.bundle import read_manifest
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically, writing
from fastv_runtime.serving.triton.parameters import TritonParameters
from fastv_runtime.serving.triton.tensors import INPUTS, OUTPUTS, TritonTensor, tensor_dims

CONFIG, MODEL = "config.pbtxt", "1/model.py"
MARK = "# Written by fastv-serve"
"""How files begin that may be written again."""
CODE = f"""{MARK}: Triton's Python backend runs the class of this name.
from fastv_runtime.serving.triton.backend import TritonPythonModel as TritonPythonModel
"""


def write_repository(
    out: Path,
    parameters: TritonParameters,
    *,
    name: str | None = None,
    gpu: bool = False,
    note: Note = silent,
) -> Path:
    """Write the model of a bundle into the model repository `out`, which is made; the model's folder.

    name: of the model, None means the bundle's. gpu: whether its instance is on a GPU. A model that this function wrote
    is replaced. Raises UserError for what is no bundle, for a name that is none, where something else is in the
    model's place, and where nothing can be written.
    """
    read_manifest(parameters.bundle)
    name = parameters.bundle.name.removesuffix(".fastv") if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise UserError(f"{name!r}: no name for a model: use letters, digits, '-', '_' and '.'")
    files = {MODEL: CODE, CONFIG: config_text(name, parameters, gpu=gpu)}
    folder = out / name
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with claimed(folder, note=note):
        if folder.exists() or folder.is_symlink():
            _check_ours(folder)
            for file, content in files.items():
                write_atomically(folder / file, content)
        else:
            _write_new(folder, files)
    return folder


def config_text(name: str, parameters: TritonParameters, *, gpu: bool) -> str:
    """config.pbtxt, in protobuf's text format, as Triton's model_config.proto has it."""
    lines = [
        f"{MARK}: see docs/serving.md.",
        f"name: {quoted(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        *(_declared("input", tensor, optional=True) for tensor in INPUTS),
        *(_declared("output", tensor) for tensor in OUTPUTS),
        "# One: each would load the bundle anew, and Triton sends the turns of a conversation to any of them.",
        f"instance_group {{ count: 1 kind: {'KIND_GPU gpus: 0' if gpu else 'KIND_CPU'} }}",
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.as_texts().items()
        ),
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A string of protobuf's text format: what is not plain ASCII is written as octal bytes of UTF-8."""
    plain = {code: chr(code) for code in range(0x20, 0x7F)} | {ord('"'): '\\"', ord("\\"): "\\\\"}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode("utf-8", "surrogateescape")) + '"'


def _declared(kind: str, tensor: TritonTensor, *, optional: bool = False) -> str:
    dims = ", ".join(map(str, tensor_dims(tensor)))
    end = " optional: true" if optional else ""
    return f"{kind} {{ name: {quoted(tensor.name)} data_type: TYPE_{tensor.type} dims: [ {dims} ]{end} }}"


def _check_ours(folder: Path) -> None:
    """UserError unless all that is in a folder was written here."""
    found = _files(folder) if folder.is_dir() and not folder.is_symlink() else None
    ours = found is not None and found <= {CONFIG, MODEL} and all(_begins(folder / file) for file in found)
    if not ours:
        raise UserError(f"{folder}: something else is there: remove it, or give another place")


def _files(folder: Path) -> set[str]:
    """But for what Python leaves there."""
    paths: Iterable[Path] = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths if not path.is_dir() or path.is_symlink()}


def _begins(file: Path) -> bool:
    with writing(file), file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK.encode()


def _write_new(folder: Path, files: dict[str, str]) -> None:
    """The folder appears whole: Triton may be looking."""
    with writing(folder):
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
        try:
            staged.chmod(0o755)  # mkdtemp makes it private, and Triton is often another user
            for file, content in files.items():
                (staged / file).parent.mkdir(exist_ok=True)
                (staged / file).write_text(content, encoding="utf-8")
            staged.rename(folder)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
