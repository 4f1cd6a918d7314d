"""Published configurations by name, at their full dimensions: what the size claims are made of. No weights.

One file per family, each entry the contents of a model's config.json in the form that transformers 5 reads (settings
of rotary embeddings in `rope_parameters`, `tie_word_embeddings` at the root). Values that equal the config class's own
defaults are left out where nobody would look for them.
"""

from __future__ import annotations

import copy
from typing import Any

from configurations import fast_vlm, internvl, llava, llava_onevision, qwen_vl, qwen_vl_chat, smolvlm, video_llava

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    name: entry
    for family in (llava, llava_onevision, fast_vlm, video_llava, qwen_vl, internvl, smolvlm, qwen_vl_chat)
    for name, entry in family.CONFIGURATIONS.items()
}
"""Name -> the contents of config.json."""

WITHOUT_CLASS = ("qwen",)
"""Model types that transformers has no config class for; their configuration is the dictionary itself."""


def configuration(name: str) -> Any:
    """transformers' config object of a named configuration; for WITHOUT_CLASS a dictionary."""
    return as_config(CONFIGURATIONS[name])


def as_config(entry: dict[str, Any]) -> Any:
    """transformers' config object of a config.json's contents; for WITHOUT_CLASS the contents.

    Raises KeyError for a model type that neither knows.
    """
    from transformers import CONFIG_MAPPING

    # Config classes fill in the dictionaries that they are given.
    entry = copy.deepcopy(entry)
    return entry if entry["model_type"] in WITHOUT_CLASS else CONFIG_MAPPING[entry["model_type"]].from_dict(entry)
