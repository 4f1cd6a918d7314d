"""Tokenizer and image processor files of a checkpoint, as a bundle takes them over."""

from __future__ import annotations

import shutil
from pathlib import Path

from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing.processor_settings import check_processor

PROCESSOR_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""What the runtime's tokenizer and image processor read, copied as the checkpoint has them."""

MORE_TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates of other names than `default`, and sometimes that one."""


def copy_processor(source: Path, target: Path) -> None:
    """Copy them to a new directory `target`; UserError if the runtime could not do with what there is."""
    check_processor(source)
    target.mkdir()
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    for template in source.glob(MORE_TEMPLATES):
        (target / template.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(template, target / template.relative_to(source))
    if not (target / "tokenizer.json").is_file() and not (target / "tokenizer.model").is_file():
        raise UserError(f"{source}: no tokenizer.json: the runtime needs the tokenizer beside the weights")
    if not any((target / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{source}: no preprocessor_config.json: the runtime needs the image processor's settings")
