"""Where a bundle is written until it is whole: a hidden directory beside the output, on a disk with enough space."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastv_runtime.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A directory that the caller renames to `output` at the end; removed if anything goes wrong before.

    Raises UserError if the disk fills up.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.absolute().parent))
    # mkdtemp makes it private; a bundle has the permissions that any new directory has.
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    try:
        yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"{output}: the disk is full: free some space, or give an `output` on another disk") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_space(output: Path, needed: int) -> None:
    """UserError if the disk that `output` will be on has less than `needed` bytes free."""
    free = shutil.disk_usage(output.absolute().parent).free
    if free < needed:
        raise UserError(
            f"{output}: needs {needed / 2**30:,.2f} GiB, its disk has {free / 2**30:,.2f} GiB free: "
            "free some space, or give an `output` on another disk"
        )
