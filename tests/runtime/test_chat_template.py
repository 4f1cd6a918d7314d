"""The chat template is the one that transformers' processor takes, and text-only ones never print Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoProcessor, AutoTokenizer

from fastv_export.checkpoint.processor_files import copy_processor
from fastv_runtime import UserError
from fastv_runtime.config.bundle import Tokens
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import GraphRun, Visual
from tests.tiny import CHAT_TEMPLATE, VISUAL_TOKENS

TOKENS = Tokens(image=3, stop=())
IMAGE = Visual("image", "vision", (), (GraphRun(VISUAL_TOKENS),), views=list)
QUESTION = "What is the colour?"
JINJA, JSON, MORE = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
PRINTS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
JOINS = "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
STRIPS = "{% for m in messages %}{{ bos_token }}[INST] {{ m['content'].strip() }} [/INST]{% endfor %}"
DUMPS = "{% for m in messages %}[INST] {{ m['content'] | tojson }}{% endfor %}"
CHECKS = "{% for m in messages %}[INST] {% if m['content'] is string %}{{ m['content'] }}{% endif %}{% endfor %}"


def other(name: str) -> str:
    """A template that says where it was."""
    return CHAT_TEMPLATE.replace("USER", name)


CASES: dict[str, dict[str, Any]] = {
    "jinja": {JINJA: other("A")},
    "json": {JSON: {"chat_template": other("A")}},
    "json before jinja": {JSON: {"chat_template": other("A")}, JINJA: other("B")},
    "processor_config before json": {
        "processor_config.json": {"chat_template": other("A")},
        JSON: {"chat_template": other("B")},
    },
    "processor_config before jinja": {"processor_config.json": {"chat_template": other("A")}, JINJA: other("B")},
    "json before the tokenizer's": {
        JSON: {"chat_template": other("A")},
        "tokenizer_config.json": {"chat_template": PRINTS},
    },
    "json before one that joins": {
        JSON: {"chat_template": other("A")},
        "tokenizer_config.json": {"chat_template": JOINS},
    },
    "jinja and others": {JINJA: other("A"), f"{MORE}/rag.jinja": other("B"), f"{MORE}/tool_use.jinja": other("C")},
    "default among others": {f"{MORE}/default.jinja": other("A"), f"{MORE}/rag.jinja": other("B")},
    "jinja before default": {JINJA: other("A"), f"{MORE}/default.jinja": other("B")},
    "named in processor_config": {
        "processor_config.json": {"chat_template": {"default": other("A"), "rag": other("B")}},
    },
}


def bundle_with(tiny_llava: Path, folder: Path, files: dict[str, Any]) -> tuple[Path, Path]:
    """A checkpoint with just these templates, and its files as a bundle has them."""
    source = Path(shutil.copytree(tiny_llava, folder / "source"))
    (source / JINJA).unlink()
    for name, value in files.items():
        file = source / name
        file.parent.mkdir(exist_ok=True)
        if isinstance(value, dict):
            have = json.loads(file.read_text()) if file.is_file() else {}
            file.write_text(json.dumps(have | value))
        else:
            file.write_text(value)
    copy_processor(source, folder / "processor")
    return source, folder / "processor"


@pytest.mark.parametrize("files", CASES.values(), ids=CASES)
@pytest.mark.parametrize("images", [0, 1])
def test_a_prompt_is_that_of_the_processor(
    tiny_llava: Path, tmp_path: Path, files: dict[str, Any], images: int
) -> None:
    source, processor_files = bundle_with(tiny_llava, tmp_path, files)
    processor = AutoProcessor.from_pretrained(source, local_files_only=True)
    content = [{"type": "image"}] * images + [{"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert "A: " in text
    expected = processor.tokenizer(text.replace("<image>", "<image>" * VISUAL_TOKENS), add_special_tokens=False)
    prompt = PromptBuilder(processor_files, TOKENS).build(QUESTION, [IMAGE] * images)
    np.testing.assert_array_equal(prompt.token_ids, expected["input_ids"])


TOKENIZER = {
    "one": other("A"),
    "named": [{"name": "rag", "template": other("B")}, {"name": "default", "template": other("A")}],
}


@pytest.mark.parametrize("stored", TOKENIZER.values(), ids=TOKENIZER)
def test_without_a_processors_template_the_tokenizers_is_used(tiny_llava: Path, tmp_path: Path, stored: Any) -> None:
    source, processor_files = bundle_with(tiny_llava, tmp_path, {"tokenizer_config.json": {"chat_template": stored}})
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    turn = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    expected = tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"]
    np.testing.assert_array_equal(PromptBuilder(processor_files, TOKENS).build(QUESTION, []).token_ids, expected)


@pytest.mark.parametrize("template", [PRINTS, JOINS, STRIPS, DUMPS, CHECKS])
def test_a_template_of_text_alone_gets_text_alone(tiny_llava: Path, tmp_path: Path, template: str) -> None:
    source, processor_files = bundle_with(tiny_llava, tmp_path, {"tokenizer_config.json": {"chat_template": template}})
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    builder = PromptBuilder(processor_files, TOKENS)

    def expected(text: str) -> list[int]:
        turn = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return tokenizer(turn, add_special_tokens=not turn.startswith("<s>"))["input_ids"]

    np.testing.assert_array_equal(builder.build(QUESTION, []).token_ids, expected(QUESTION))
    with pytest.raises(UserError, match=r"takes text alone.*write the model's own token"):
        builder.build(QUESTION, [IMAGE])
    placed = builder.build(f"<image>\n{QUESTION}", [IMAGE])
    np.testing.assert_array_equal(placed.token_ids, expected("<image>" * VISUAL_TOKENS + f"\n{QUESTION}"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({f"{MORE}/rag.jinja": other("B")}, "chat templates rag and none called default"),
        ({"tokenizer_config.json": {"chat_template": "{{ raise_exception('no') }}"}}, "cannot be used: no"),
        ({"tokenizer_config.json": {"chat_template": "{% for"}}, "cannot be used: "),
        ({"tokenizer_config.json": {"chat_template": "Hello"}}, "cannot be used: it leaves the question out"),
        ({JSON: "{"}, r"chat_template\.json: not a JSON object"),
    ],
)
def test_templates_that_say_nothing_are_refused(
    tiny_llava: Path, tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    _, processor_files = bundle_with(tiny_llava, tmp_path, files)
    with pytest.raises(UserError, match=message):
        PromptBuilder(processor_files, TOKENS).build(QUESTION, [])
