"""The container files and the unit of examples/deploy, as far as can be told without building or starting them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastv_runtime.cli.options.serve import parser
from fastv_runtime.serving.http_server import FLUSH_S
from tests.test_docs import ROOT

DEPLOY = ROOT / "examples" / "deploy"
CONTAINERS = sorted(DEPLOY.glob("Containerfile*"))
UNIT = DEPLOY / "fastv-serve.service"


def instructions(file: Path) -> list[tuple[str, str]]:
    """(name, arguments) of each, with continued lines joined."""
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.partition(" ") for line in whole.splitlines() if line.strip()]
    assert {name for name, _, _ in found} <= {
        *("ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    }
    return [(name, arguments.strip()) for name, _, arguments in found]


def one(file: Path, name: str) -> str:
    (found,) = [arguments for each, arguments in instructions(file) if each == name]
    return found


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_a_container_copies_what_is_there(file: Path) -> None:
    copied = [words for name, arguments in instructions(file) if name == "COPY" for words in arguments.split()[:-1]]
    sources = [each for each in copied if not each.startswith(("--from", "/"))]
    assert {"calib", "export", "runtime", "pyproject.toml", "README.md", "requirements/lock.txt"} <= set(sources)
    assert not [each for each in sources if not (ROOT / each).exists()]


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_a_container_installs_extras_that_there_are(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    extras = {each for found in re.findall(r'"\.\[([^"]*)\]"', text) for each in found.split(",")} - {"${EXTRA}"}
    extras |= set(re.findall(r"EXTRA=(\w+)", text))
    assert "serve" in extras
    assert extras <= {"serve", "cpu", "gpu"} <= known_extras()


def known_extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^([\w-]+) = \[", table, re.MULTILINE))


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_a_container_starts_a_server_that_parses(file: Path) -> None:
    assert json.loads(one(file, "ENTRYPOINT")) == ["fastv-serve"]
    args = parser().parse_args(json.loads(one(file, "CMD")))
    assert args.host == "0.0.0.0" and args.api_key_file is not None
    assert args.backend == ("trt" if file.suffix == ".jetpack" else None)  # None: what the bundle is for
    assert one(file, "EXPOSE") == str(args.port)
    user = one(file, "USER").partition(":")[0]
    assert user.isdigit() and int(user) > 0


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_a_container_asks_for_an_address_that_the_server_has(file: Path) -> None:
    from fastv_runtime.serving import app

    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+/[\w/]+)", one(file, "HEALTHCHECK"))
    port, _, path = address.partition("/")
    assert port == one(file, "EXPOSE")
    assert f'("/{path}"' in Path(app.__file__).read_text(encoding="utf-8")
    command = json.loads(one(file, "HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python3", "-c"] and compile(command[2], "HEALTHCHECK", "exec")


@pytest.mark.parametrize("file", CONTAINERS, ids=lambda file: file.name)
def test_arguments_of_a_build_are_declared(file: Path) -> None:
    declared = {arguments.partition("=")[0] for name, arguments in instructions(file) if name == "ARG"}
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r"--build-arg '?(\w+)=", text)) | set(re.findall(r"\$\{(\w+)\}", text)) == declared


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_unit_starts_a_server_that_parses_and_has_time_to_end() -> None:
    (command,), (key,) = settings("ExecStart"), settings("LoadCredential")
    program, *arguments = shlex.split(command)
    args = parser().parse_args(arguments)
    assert Path(program).name == "fastv-serve"
    assert args.api_key_file == f"%d/{key.partition(':')[0]}"
    assert int(settings("TimeoutStopSec")[0]) > args.grace + FLUSH_S
    assert Path(args.bundle).is_relative_to(settings("ReadOnlyPaths")[0])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    program = shlex.split(settings("ExecStart")[0])[0]
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(program, sys.executable), encoding="utf-8")
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert verified.returncode == 0 and UNIT.name not in verified.stderr, verified.stderr
    secured = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert secured.returncode == 0, secured.stdout
