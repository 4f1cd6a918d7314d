"""Published configurations by name, at their full dimensions: what the size claims are made of. No weights."""

from __future__ import annotations

from typing import Any

from configurations import llava

CONFIGURATIONS: dict[str, dict[str, Any]] = {**llava.CONFIGURATIONS}
"""Name -> the contents of config.json, in the form that transformers 5 reads."""


def configuration(name: str) -> Any:
    """transformers' config object of a named configuration."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**CONFIGURATIONS[name])
