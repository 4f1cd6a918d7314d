"""The one seam to transformers: tokenizers, image processors and a few of its functions, without torch.

Where torch is installed beside it, transformers imports it for whatever it loads: 300 MB and seconds, for tokenizers
and Pillow processors that compute nothing with it. And what was imported while torch was missing stays without it. So
the runtime has a copy of transformers to itself, imported with torch out of sight; in `sys.modules` that copy stands
only while it loads. The rest of the process imports transformers as if the runtime had not, with torch and all.

A process that has torch already, or cannot have it, needs no copy: there the usual transformers is used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

from fastv_runtime.errors import UserError

_LIBRARY = "transformers"
_NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def load_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer of the files in `directory`. Raises UserError for files that it cannot load."""
    with _without_torch(), _loading(directory, "the tokenizer"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def load_image_processor(directory: Path) -> Any:
    """transformers' PIL image processor, configured by the files in `directory`. Raises UserError likewise."""
    with _without_torch(), _loading(directory, "the image processor"):
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(
            directory, backend="pil", local_files_only=True, trust_remote_code=False
        )


def select_best_resolution(size: tuple[int, int], pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The pinpoint (height, width) into which transformers fits an image of `size` (height, width)."""
    height, width = _selects_best_resolution()(size, [list(pinpoint) for pinpoint in pinpoints])
    return height, width


def import_library() -> None:
    """Import what any bundle needs of transformers, so that what is loaded after it is the bundle's own."""
    with _without_torch():
        from transformers import AutoImageProcessor, AutoTokenizer  # noqa: F401


def silence() -> None:
    """transformers advises people who train; ours run a command. Does not import it."""
    # Read while it is imported: without the first, every start on a device would lament that torch is missing.
    os.environ.setdefault(_NO_ADVICE, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger(_LIBRARY).setLevel(logging.ERROR)
    if sys.modules.keys() & {_LIBRARY, "huggingface_hub"}:  # too late for the environment
        from transformers.utils import logging as theirs

        theirs.set_verbosity_error()
        theirs.disable_progress_bar()


@contextmanager
def _loading(directory: Path, what: str) -> Iterator[None]:
    """Whatever a library raises of files from outside is one line that names them."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        detail = f"{type(error).__name__}: {words[:200]}{'...' if len(words) > 200 else ''}"
        raise UserError(f"{directory}: {what} cannot be used ({detail}): mend the files, or copy them again") from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers draws no progress bars of its own: whoever calls us says what is drawn."""
    from transformers.utils import logging as theirs

    drawn = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            theirs.enable_progress_bar()


@cache
def _selects_best_resolution() -> Callable[[tuple[int, int], list[list[int]]], tuple[int, int]]:
    with _without_torch():
        from transformers.image_processing_utils import select_best_resolution

        return select_best_resolution


@contextmanager
def _without_torch() -> Iterator[None]:
    """While it lasts, `transformers` is one that does not import torch, unless torch is there anyway.

    No other thread may import transformers or torch meanwhile: it would be given this one, or none.
    """
    copy = _private_copy()
    with copy.lock:
        if "torch" in sys.modules or importlib.util.find_spec("torch") is None:
            yield
            return
        advice = os.environ.get(_NO_ADVICE)
        everybodys = _Installed.taken_out()
        copy.installed.put_in()
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say: there is none
        os.environ[_NO_ADVICE] = "1"  # to install torch
        try:
            yield
        finally:
            os.environ.pop(_NO_ADVICE)
            if advice is not None:
                os.environ[_NO_ADVICE] = advice
            sys.modules.pop("torch", None)
            copy.installed = _Installed.taken_out()
            everybodys.put_in()


@dataclass
class _Installed:
    """All by which an imported transformers is installed in a process."""

    modules: dict[str, ModuleType] = field(default_factory=dict)
    finders: list[Any] = field(default_factory=list)
    """For module names of its past."""
    handlers: list[logging.Handler] = field(default_factory=list)
    level: int = logging.NOTSET
    propagate: bool = True

    @classmethod
    def taken_out(cls) -> _Installed:
        """What is installed, removed."""
        logger = logging.getLogger(_LIBRARY)
        names = [name for name in sys.modules if _is_part(name)]
        found = cls(
            {name: sys.modules.pop(name) for name in names},
            [finder for finder in sys.meta_path if _is_part(type(finder).__module__)],
            logger.handlers[:],
            logger.level,
            logger.propagate,
        )
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in found.finders]
        cls()._configure(logger)
        return found

    def put_in(self) -> None:
        sys.modules.update(self.modules)
        sys.meta_path.extend(self.finders)
        self._configure(logging.getLogger(_LIBRARY))

    def _configure(self, logger: logging.Logger) -> None:
        logger.handlers[:] = self.handlers
        logger.setLevel(self.level)
        logger.propagate = self.propagate


@dataclass
class _Copy:
    """The runtime's own transformers, nothing until it is first needed."""

    installed: _Installed = field(default_factory=_Installed)
    lock: Any = field(default_factory=RLock)


@cache
def _private_copy() -> _Copy:
    """One a process: every import of another would stay in memory."""
    return _Copy()


def _is_part(module: str) -> bool:
    return module.partition(".")[0] == _LIBRARY
