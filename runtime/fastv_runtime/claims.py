"""One writer a place: an output is claimed while it is made, and what killed writers left there is removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fastv_runtime.errors import UserError
from fastv_runtime.files import is_stream, real, sized, writing

LOCK = ".lock"
"""In a scratch directory, beside whatever is put there."""

Note = Callable[[str], None]
"""Told, in a line, what was removed."""


def silent(_: str) -> None:
    """Tells nobody."""


@contextmanager
def claimed(*outputs: Path, note: Note = silent) -> Iterator[None]:
    """Within this context no other process makes these outputs, files or directories; they need not exist.

    The claim is a lock on `.NAME.lock` beside an output, which the kernel gives back when a process ends, however it
    ends. Partial files and directories of writers that were killed are removed first. Devices and pipes are not
    claimed. Raises UserError at once for an output that another process makes, or that cannot be written.
    """
    with ExitStack() as stack:
        for output in {_place(each): each for each in outputs}.values():
            stack.enter_context(_claimed(output, note))
        yield


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A temporary directory; those with this prefix that killed processes left are removed first."""
    temporary = Path(tempfile.gettempdir())
    for other in temporary.glob(f"{prefix}*"):
        with suppress(OSError):
            if other.stat().st_uid == os.geteuid() and not _held(other / LOCK):
                shutil.rmtree(other)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        descriptor = os.open(Path(name) / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _try_lock(descriptor)
            yield Path(name)
        finally:
            os.close(descriptor)


def remove_partials(folder: Path, name: str | None = None, note: Note = silent) -> None:
    """Remove the partial files and directories that killed writers of `name` left in a folder; None: of any name.

    Those that a living process has locked stay.
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.partial-[a-z0-9_]{{8}}")
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if pattern.fullmatch(path.name) and not _held(path):
                note(_removed(path))


def _removed(path: Path) -> str:
    try:
        inside = [path, *path.rglob("*")]
        size = sum(each.lstat().st_size for each in inside if each.is_file())
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        return f"warning: {path}: left by a process that was killed, cannot be removed: {error.strerror}"
    return f"note: {path}: removed, left by a process that was killed ({sized(size)})"


def _place(output: Path) -> Path:
    return output if is_stream(output) else real(output)


@contextmanager
def _claimed(output: Path, note: Note) -> Iterator[None]:
    if is_stream(output):
        if not os.access(output, os.W_OK):
            raise UserError(f"{output}: cannot be written: Permission denied")
        yield
        return
    place = real(output)
    if not place.parent.is_dir():
        raise UserError(f"{place.parent}: no such directory: make it first")
    lock = place.with_name(f".{place.name}.lock")
    with writing(output):
        descriptor = _locked(lock)
    if descriptor is None:
        raise UserError(f"{output}: another process is writing it: wait until that ends, or write to another place")
    try:
        remove_partials(place.parent, place.name, note)
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is still held: whoever opens the name next makes another file
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock on a file, which is made; None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its last holder removed it meanwhile


def _held(path: Path) -> bool:
    """Whether a living process has locked a file or directory; one that is not there is taken to be about to be."""
    try:
        # Where locks go over a network, only what is open for writing can be locked; directories never can.
        access = os.O_RDONLY if path.is_dir() else os.O_RDWR
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, or one that locks no directories: nothing tells of other writers
        return True
    return True
