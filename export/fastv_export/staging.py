"""Where a bundle is written until it is whole: a hidden directory beside the output, on a disk with enough space."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastv_runtime.claims import Note, claimed, silent
from fastv_runtime.errors import UserError
from fastv_runtime.files import DISK, cannot_write, writing


@contextmanager
def staging(output: Path, note: Note = silent) -> Iterator[Path]:
    """A directory that the caller renames to `output` at the end; removed if anything goes wrong before.

    Directories that killed exports to the same place left are removed first, which `note` is told. Raises UserError if
    another process exports there, if nothing can be written there, and if the disk fills up.
    """
    check_output(output)
    with claimed(output, note=note):
        check_output(output)  # who had claimed it may just have finished
        with writing(output):
            folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.absolute().parent))
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a file system without locks, or where they go over a network
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that it is not left over
            # mkdtemp makes it private; a bundle has the permissions that any new directory has.
            umask = os.umask(0)
            os.umask(umask)
            folder.chmod(0o777 & ~umask)
            yield folder
        except OSError as error:
            if error.errno not in DISK:
                raise
            raise cannot_write(_final(output, folder, error), error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def check_output(output: Path) -> None:
    """UserError if something is where a bundle is to be written, a link that leads nowhere included."""
    try:
        there = output.exists() or output.is_symlink()
    except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
        raise UserError(f"{str(output)!r}: no place for a bundle: {error}") from None
    if there:
        raise UserError(f"{output}: already exists: remove it, or give another `output`")


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Within this context errors of a disk name `file`: Python's name the file that cannot be opened, and no other."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


def _final(output: Path, folder: Path, error: OSError) -> Path:
    """The file that an error names, as it would have been called in the bundle; the bundle if it names none."""
    name = error.filename2 or error.filename  # of a copy the second is what is written
    if name is None:
        return output
    file = Path(os.fsdecode(name))
    return output / file.relative_to(folder) if file.is_relative_to(folder) else file
