"""timm without torchvision, for tests alone: a CPU build of torch and a wheel of torchvision do not always meet.

A tower uses nothing of torchvision, but timm's data pipeline does, which importing timm imports; and transformers says
that there is no timm where there is no torchvision.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest


def import_timm() -> None:
    """Import timm, with a stand-in where there is no torchvision. Skips the test where there is no timm."""
    if importlib.util.find_spec("torchvision") is not None:
        pytest.importorskip("timm")
        return
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        timm = pytest.importorskip("timm", reason="make test installs timm")
    finally:
        # Nobody else may take the stand-in for the real thing.
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]

    from transformers.models.timm_wrapper import modeling_timm_wrapper
    from transformers.utils import import_utils

    vars(modeling_timm_wrapper)["timm"] = timm  # what its own import would have bound
    import_utils.BACKENDS_MAPPING["timm"] = (lambda: True, "")


class _Name(type):
    """A class whose every attribute is another such class."""

    def __getattr__(cls, name: str) -> type:
        return _stand_in(name)


class _Module(ModuleType):
    def __getattr__(self, name: str) -> type:
        return _stand_in(name)


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Name(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        ours = fullname.partition(".")[0] == "torchvision"
        return ModuleSpec(fullname, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
