"""Claims: one writer a place, the second refused at once, and what killed writers left removed."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime import claims
from fastv_runtime.claims import claimed, remove_partials, scratch
from fastv_runtime.errors import UserError
from fastv_runtime.files import write_atomically

# Nothing but the standard library runs in these processes, and the tests have one thread when they start them.
FORK = get_context("fork")
NOBODY = 65534


def hold(output: str, ready: Any) -> None:
    with claimed(Path(output)):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """A process that has claimed `tmp_path / "out"`."""
    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(str(tmp_path / "out"), ready))
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_what_a_living_process_claims_is_refused_at_once_and_what_a_killed_one_claimed_is_not(
    holder: Any, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for same in (tmp_path / "out", tmp_path / "elsewhere" / ".." / "out"):
        with pytest.raises(UserError, match="out: another process is writing it: wait until that ends"), claimed(same):
            pass
    with claimed(tmp_path / "other"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with claimed(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_one_of_several_outputs_that_is_taken_leaves_the_others_free(holder: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="out: another process"), claimed(tmp_path / "a", tmp_path / "out"):
        pass
    with claimed(tmp_path / "a", tmp_path / "a"):  # twice the same is once
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".out.lock"}


def count(folder: str, rounds: int, refused: Any) -> None:
    total = Path(folder) / "total"
    for _ in range(rounds):
        while True:
            with suppress(UserError), claimed(total):
                before = int(total.read_text())
                time.sleep(0.0005)
                write_atomically(total, str(before + 1))
                break
            refused.value += 1


def test_claims_exclude_one_another_though_their_files_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "total").write_text("0")
    refused = FORK.Value("i", 0)
    processes = [FORK.Process(target=count, args=(str(tmp_path), 50, refused)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "total").read_text() == "200"
    assert refused.value > 0
    assert [path.name for path in tmp_path.iterdir()] == ["total"]


def test_leftovers_are_named_and_removed_and_nothing_else_is(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial-ab_12345"
    (left / "onnx").mkdir(parents=True)
    (left / "onnx" / "weights").write_bytes(bytes(3 << 20))
    (tmp_path / ".out.partial-abcdefgh").write_text("a file's")
    others = [".outer.partial-ab_12345", ".out.partial-mine", "out.partial-ab_12345", ".out.partial-abcdefgh.png"]
    for name in others:
        (tmp_path / name).mkdir()
    said: list[str] = []
    with claimed(tmp_path / "out", note=said.append):
        pass
    assert said == [
        f"note: {left}: removed, left by a process that was killed (3.0 MiB)",
        f"note: {tmp_path / '.out.partial-abcdefgh'}: removed, left by a process that was killed (0.0 MiB)",
    ]
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_partial_files_of_a_living_process_stay(tmp_path: Path) -> None:
    path = tmp_path / ".out.partial-abcdefgh"
    with path.open("wb") as file:
        claims.fcntl.flock(file, claims.fcntl.LOCK_EX)
        remove_partials(tmp_path)
        assert path.exists()
    remove_partials(tmp_path)
    assert not path.exists()


def test_a_leftover_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".out.partial-abcdefgh").mkdir()

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claims.shutil, "rmtree", refused)
    said: list[str] = []
    with claimed(tmp_path / "out", note=said.append):
        pass
    assert said[0].endswith("partial-abcdefgh: left by a process that was killed, cannot be removed: Permission denied")


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(claims.fcntl, "flock", unsupported)
    with claimed(tmp_path / "out"):
        write_atomically(tmp_path / "out", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("folder", "message"), [("/proc", "cannot be written"), ("/no/such", "no such directory")])
def test_where_nothing_can_be_written_is_said_at_the_start(folder: str, message: str) -> None:
    with pytest.raises(UserError, match=message), claimed(Path(folder) / "out"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_directory_of_somebody_else_is_refused_at_the_start() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        os.seteuid(NOBODY)
        try:
            with (
                pytest.raises(UserError, match="out: cannot be written: Permission denied"),
                claimed(Path(folder, "out")),
            ):
                pass
        finally:
            os.seteuid(0)


def keep_scratch(folder: str, ready: Any) -> None:
    tempfile.tempdir = folder
    with scratch("of-tests-") as made:
        (made / "image").write_text("x")
        ready.set()
        time.sleep(60)


def test_scratch_directories_of_killed_processes_go_and_those_of_living_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ready = FORK.Event()
    process = FORK.Process(target=keep_scratch, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(30)
    with scratch("of-tests-"):
        assert len(list(tmp_path.iterdir())) == 2
    process.kill()
    process.join()
    with scratch("of-tests-") as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []
