"""What is written where: files are replaced whole, links followed, devices and pipes written to."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastv_runtime.claims import claimed
from fastv_runtime.errors import UserError
from fastv_runtime.files import DISK, require_space, write_atomically
from tests.processes import run


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(Path("there") / "file")
    with claimed(link):
        assert (tmp_path / "there" / ".file.lock").exists()
        write_atomically(link, "after")
    assert link.is_symlink() and target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "file", "link"}


def test_a_link_to_nothing_makes_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(UserError, match="link"):
        write_atomically(tmp_path / "link", "text")


def test_a_pipe_gets_what_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with claimed(pipe):
        write_atomically(pipe, "text" * 50_000)
    reader.join(30)
    assert read == ["text" * 50_000]
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def device(path: Path, major: int, minor: int) -> Path:
    """A node of our own: one of the system's would be lost to a mistake."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("no device can be made here")
    return path


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    null = device(tmp_path / "null", 1, 3)
    with claimed(null):
        write_atomically(null, "text")
    assert null.is_char_device()
    assert list(tmp_path.iterdir()) == [null]


def test_a_device_that_is_full_says_so(tmp_path: Path) -> None:
    full = device(tmp_path / "full", 1, 7)
    with pytest.raises(UserError, match="full: the disk is full"):
        write_atomically(full, "text")
    assert full.is_char_device()


WRITE = "import sys; from pathlib import Path; from fastv_runtime.files import write_atomically; print('first'); "
WRITE += "write_atomically(Path(sys.argv[1]), 'second\\n'); print('third')"


def test_standard_output_is_written_in_its_turn(tmp_path: Path) -> None:
    """To a pipe, and to a file that a rename would take from under the process."""
    assert run(sys.executable, "-c", WRITE, "/dev/stdout").stdout == "first\nsecond\nthird\n"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", WRITE, "/dev/stdout"], stdout=out, check=True, env=_environment())
    assert (tmp_path / "out").read_text() == "first\nsecond\nthird\n"


def test_a_pipe_that_a_shell_names_is_written_to(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    line = f'"{sys.executable}" -c "{WRITE}" >(cat > "{shown}"); wait'
    subprocess.run(["bash", "-c", f"{line}; while [ ! -s '{shown}' ]; do :; done"], check=True, env=_environment())
    assert shown.read_text() == "second\n"


def _environment() -> dict[str, str]:
    import fastv_runtime

    return os.environ | {"PYTHONPATH": str(Path(str(fastv_runtime.__file__)).parents[1])}


@pytest.mark.parametrize("code", DISK)
def test_a_disk_that_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = tmp_path / "file"
    file.write_text("before")

    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fchmod", refused)
    with pytest.raises(UserError, match=f"file: {DISK[code].split('(')[0]}"):
        write_atomically(file, "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_other_errors_are_in_the_system_s_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be written: Is a directory"):
        write_atomically(tmp_path / "folder", "text")
    with pytest.raises(UserError, match=f"cannot be written: {os.strerror(errno.ENAMETOOLONG)}"):
        write_atomically(tmp_path / ("x" * 300), "text")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_atomically(tmp_path / "nowhere" / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_space_that_is_missing_is_said_in_figures(tmp_path: Path) -> None:
    require_space(tmp_path / "out", 1000)
    with pytest.raises(UserError, match=r"out: needs 4,194,304\.00 GiB, its disk has [\d,.]+ [GM]iB free"):
        require_space(tmp_path / "out", 1 << 52)
