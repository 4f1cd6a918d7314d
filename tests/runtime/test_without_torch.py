"""The runtime works where torch is not installed, and leaves it alone where it is."""

from __future__ import annotations

import json
import site
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import noise_image
from tests.processes import run

HOST_ONLY = ("torch", "functorch", "nvidia", "triton", "onnxscript", "onnx", "accelerate", "jaxtyping", "wadler")
"""Beginnings of the names, in site-packages, of what a device does not have."""
MOST_MEMORY = 250
"""MiB that a command on a tiny bundle may have resident: it takes about 140, and with torch 440."""
COMMAND = """
import json, re, sys
from importlib import import_module
from pathlib import Path

try:
    import_module(sys.argv.pop(1)).main()
except SystemExit as exit:
    assert not exit.code, exit
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps({"torch": "torch" in sys.modules, "MiB": peak}), file=sys.stderr)
"""
"""Runs a command, and says at the end whether torch was imported and how much memory was resident."""


@pytest.fixture(scope="module")
def device_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this one's packages, linked, but for those of the host side."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, symlinks=True)
    target = next((folder / "lib").glob("python*")) / "site-packages"
    for packages in {*site.getsitepackages(), Path(pytest.__file__).resolve().parent.parent}:
        for entry in Path(packages).iterdir():
            is_runtime = entry.name.startswith("onnxruntime")
            if (is_runtime or not entry.name.startswith(HOST_ONLY)) and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_there_is_no_torch_there(device_python: Path) -> None:
    assert "No module named 'torch'" in run(device_python, "-c", "import torch").stderr


def test_fastv_run_answers_without_torch(device_python: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    image, kept = tmp_path / "image.png", tmp_path / "kept.png"
    noise_image(0).save(image)
    main = "import sys; from fastv_runtime.cli.run import main; main(); assert 'torch' not in sys.modules"
    arguments = [tiny_bundle, "--image", image, "--prompt", "What is it?", "--json", "--show-kept", kept]
    done = run(device_python, "-c", main, *arguments, "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["kept_visual_tokens"]) == 72
    assert kept.stat().st_size > 1000


def test_fastv_inspect_works_without_torch(device_python: Path, tiny_bundle: Path) -> None:
    done = run(device_python, "-c", "from fastv_runtime.cli.inspect import main; main()", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "K=2" in done.stdout


def test_fastv_export_says_what_to_install(device_python: Path, tiny_llava: Path, tmp_path: Path) -> None:
    main = "from fastv_export.cli import main; main()"
    done = run(device_python, "-c", main, tiny_llava, "-o", tmp_path / "out.fastv")
    assert done.returncode == 2
    assert (
        done.stderr == "fastv-export: torch is not installed: pip install -e '.[export]' in the clone of fastv-edge\n"
    )


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["run", "inspect", "bench", "build"])
def test_a_command_leaves_an_installed_torch_alone(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    noise_image(0).save(image)
    arguments: list[str | Path] = ["--help"]
    if name in ("run", "inspect"):
        arguments = [request.getfixturevalue("tiny_bundle"), "--json"]
    if name == "run":
        arguments += ["--image", image, "--prompt", "What is it?", "--max-new-tokens", "4"]
    done = run(sys.executable, "-c", COMMAND, f"fastv_runtime.cli.{name}", *arguments)
    assert done.returncode == 0, done.stderr
    assert name != "run" or len(json.loads(done.stdout)["kept_visual_tokens"]) == 72
    *noise, last = done.stderr.splitlines()
    facts = json.loads(last)
    assert not facts["torch"]
    assert facts["MiB"] < MOST_MEMORY
    assert not "".join(noise)


def test_no_runtime_module_imports_the_host_side() -> None:
    import fastv_runtime

    sources = list(Path(fastv_runtime.__file__).parent.rglob("*.py"))
    assert len(sources) > 15
    for source in sources:
        for line in source.read_text(encoding="utf-8").splitlines():
            assert not line.startswith("from jaxtyping"), f"{source}: import it under `if TYPE_CHECKING:`"
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].split(".")[0] not in ("torch", "onnx", "onnx_ir", "fastv_export", "fastv_calib"), source
