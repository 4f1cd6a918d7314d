"""Files that are there whole or not at all, on disks that may be full; devices and pipes are written to."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastv_runtime.errors import UserError

DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file is larger than the disk or a limit of the shell (ulimit -f) allows",
}
"""What a disk may say of any write: no error of a program, and none that the next attempt would not meet."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Those of the disk's that space would mend."""

NOT_OURS = {*DISK, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a path that is not the program's to mend."""

OWN_STREAMS = (1, 2)
"""Standard output and standard error: who names them means the stream, whatever file is behind it."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file beside `path` and rename it there: it is there whole or as it was before.

    A link stays, and the file that it names is replaced; the permissions of a file that is replaced stay too. What is
    no file, a device or a pipe, is written to. Raises UserError where that cannot be.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_stream(path):
            _write_to(path, data)
        else:
            _replace(real(path), data)
    except OSError as error:
        raise cannot_write(path, error) from None


def is_stream(path: Path) -> bool:
    """Whether `path` is something to write to and not to replace: a device, a pipe, or this process's own output."""
    try:
        found = path.stat()
    except OSError:
        return False
    if stat.S_ISDIR(found.st_mode):
        return False
    return not stat.S_ISREG(found.st_mode) or _own_stream(found) is not None


def real(path: Path) -> Path:
    """The file that a path names, behind links; it need not exist. UserError for links that go in a circle."""
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise UserError(f"{path}: cannot be written: {os.strerror(errno.ELOOP)}")
    return found


def cannot_write(path: Path | str, error: OSError) -> UserError:
    """What to tell of a file that could not be written."""
    if error.errno in DISK:
        space = "free some space, or " if error.errno in FULL else ""
        return UserError(f"{path}: {DISK[error.errno]}: {space}write to another disk")
    return UserError(f"{path}: cannot be written: {error.strerror or error}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this context an OSError is one of writing `path`, and becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def require_space(output: Path, needed: int) -> None:
    """UserError if the disk that `output` will be on has less than `needed` bytes free."""
    free = shutil.disk_usage(output.absolute().parent).free
    if free < needed:
        raise UserError(
            f"{output}: needs {sized(needed)}, its disk has {sized(free)} free: free some space, or write to another "
            "disk"
        )


def sized(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that it is not left over
            file.write(data)
            os.fchmod(file.fileno(), _permissions(path))
            file.flush()
            Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _permissions(path: Path) -> int:
    """Those of the file that is there, or of any new one."""
    with suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _write_to(path: Path, data: bytes) -> None:
    own = _own_stream(path.stat())
    if own is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    with open(own if own is not None else os.open(path, os.O_WRONLY), "wb", closefd=own is None) as file:
        file.write(data)


def _own_stream(found: os.stat_result) -> int | None:
    for descriptor in OWN_STREAMS:
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None
