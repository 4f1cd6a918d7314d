"""Messages become the tokens that transformers' processors make of them, or one line that says what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, Idefics3Processor

from fastv_calib.samples.preparation import Preparation
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.families import FAMILIES
from fastv_export.families.qwen_vl_chat.processor import CHAT_TEMPLATE as QWEN_VL_CHAT
from fastv_runtime import Pipeline, UserError
from fastv_runtime.config.bundle import Tokens
from fastv_runtime.generation.calls.messages import read_messages
from fastv_runtime.generation.prompts.prompt import PromptBuilder
from fastv_runtime.preprocessing import GraphRun, Visual
from tests.conftest import DEMO, noise_image
from tests.families.rows import ROWS
from tests.families.rows.smolvlm import TILE_TOKENS

A, B, C = noise_image(0), noise_image(1, (300, 60)), noise_image(2, (50, 120))
IMAGE = {"type": "image"}
Turns = list[dict[str, Any]]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "content": [text(part) if isinstance(part, str) else part for part in parts]}


TURNS: dict[str, tuple[Turns, list[Image.Image]]] = {
    "one": ([turn("user", IMAGE, "What is it?")], [B]),
    "a system prompt": ([turn("system", "Answer in one word."), turn("user", IMAGE, "What is it?")], [A]),
    "several turns": (
        [
            turn("system", "Be brief."),
            turn("user", "Look:", IMAGE, "What is it?"),
            turn("assistant", "a circle"),
            turn("user", IMAGE, "And this,", IMAGE, "beside it?"),
        ],
        [C, A, B],
    ),
    "text alone": ([turn("user", "Hello"), turn("assistant", "Hi."), turn("user", "Why?")], []),
}


def stock(path: Path, turns: Turns, images: list[Image.Image]) -> Any:
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    rendered = processor.apply_chat_template(turns, add_generation_prompt=True)
    special = not rendered.startswith("<s>")
    return processor(images=images or None, text=rendered, add_special_tokens=special)["input_ids"][0]


def idefics3(path: Path, turns: Turns, images: list[Image.Image]) -> Any:
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    processor = Idefics3Processor(image_processor, AutoTokenizer.from_pretrained(path), image_seq_len=TILE_TOKENS)
    rendered = processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return processor(images=[images] if images else None, text=[rendered])["input_ids"][0]


def qwen(path: Path, turns: Turns, images: list[Image.Image]) -> Any:
    """Qwen's processor wants torchvision for videos: its own two parts, and the number of patches of each image."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    image_processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    head, *tail = rendered.split("<|image_pad|>")
    for image, rest in zip(images, tail, strict=True):
        patches = int(image_processor(images=[image], return_tensors="np")["image_grid_thw"].prod())
        head += "<|image_pad|>" * (patches // image_processor.merge_size**2) + rest
    return tokenizer(head, add_special_tokens=False)["input_ids"]


WITNESSES: dict[str, Callable[[Path, Turns, list[Image.Image]], Any]] = {
    "llava": stock,
    "llava_next-vicuna": stock,
    "llava_next-mistral": stock,
    "fast_vlm": stock,
    "idefics3": idefics3,
    "qwen2_vl": qwen,
    "qwen3_vl": qwen,
}


@pytest.mark.parametrize("name", WITNESSES)
def test_turns_are_the_tokens_of_the_processor(name: str, tmp_path: Path) -> None:
    row = next(row for row in ROWS if str(row) == name)
    source = tmp_path / "source"
    row.write(source)
    prepared = Preparation(Checkpoint(source), FAMILIES[row.model_type])
    for turns, images in TURNS.values():
        read = read_messages(turns, images, [])
        visuals = [prepared.of_image(image) for image in read.images]
        built = prepared.prompts.build_conversation(read.turns, visuals)
        np.testing.assert_array_equal(built.token_ids, WITNESSES[name](source, turns, images))
        assert built.order == tuple(range(len(images)))


def test_the_demo_speaks_in_turns(tmp_path: Path) -> None:
    prompts = PromptBuilder(
        DEMO, Tokens(image=AutoTokenizer.from_pretrained(DEMO).convert_tokens_to_ids("<image>"), stop=())
    )
    visual = Visual("image", "vision", (), (GraphRun(144),), views=list)
    for turns, images in TURNS.values():
        read = read_messages(turns, images, [])
        built = prompts.build_conversation(read.turns, [visual] * len(images))
        np.testing.assert_array_equal(built.token_ids, stock(DEMO, turns, images))
    by_system = prompts.build("What is it?", [visual], system="Answer in one word.")
    np.testing.assert_array_equal(by_system.token_ids, stock(DEMO, *TURNS["a system prompt"]))


def test_a_system_message_takes_the_place_of_qwen_vl_chats_own(tiny_llava: Path, tmp_path: Path) -> None:
    prompts = builder(tiny_llava, tmp_path, QWEN_VL_CHAT.replace("<imgpad>", "<image>"))
    turns = [turn("user", IMAGE, "Why?"), turn("assistant", "So."), turn("user", IMAGE, "Oh?")]
    image = "<img>" + "<image>" * 144 + "</img>"
    rest = (
        f"<|im_start|>user\nPicture 1: {image}\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
        f"<|im_start|>user\nPicture 2: {image}\nOh?<|im_end|>\n<|im_start|>assistant\n"
    )
    for before, system in (([], "You are a helpful assistant."), ([turn("system", "Be brief.")], "Be brief.")):
        expected = f"<|im_start|>system\n{system}<|im_end|>\n{rest}"
        built = prompts.build_conversation([*before, *turns], [VISUAL, VISUAL])
        assert built.token_ids.tolist() == prompts.tokenizer(expected)["input_ids"]


TOKENS = Tokens(image=3, stop=())
VISUAL = Visual("image", "vision", (), (GraphRun(144),), views=list)
SPEAKS = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
PARTS = "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{% endfor %}"
USERS_PARTS = (
    "{% for m in messages %}[{{ m['role'] }}] {% if m['role'] == 'user' %}" + PARTS + "{% else %}{{ m['content'] }}"
    "{% endif %}{{ '\n' }}{% endfor %}"
)
NO_SYSTEM = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}] " + PARTS + "\n{% endfor %}"
ALTERNATES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + NO_SYSTEM
)


def builder(tiny_llava: Path, folder: Path, template: str) -> PromptBuilder:
    copy = Path(shutil.copytree(tiny_llava, folder / "source"))
    (copy / "chat_template.jinja").write_text(template)
    return PromptBuilder(copy, TOKENS)


def test_a_template_of_text_alone_gets_the_text_of_each_turn(tiny_llava: Path, tmp_path: Path) -> None:
    prompts = builder(tiny_llava, tmp_path, SPEAKS)
    turns = [turn("system", "Be ", "brief."), turn("user", "Why?"), turn("assistant", "So."), turn("user", "Oh?")]
    expected = "[system] Be brief.\n[user] Why?\n[assistant] So.\n[user] Oh?\n"
    built = prompts.build_conversation(turns, [])
    assert built.token_ids.tolist() == prompts.tokenizer(expected)["input_ids"]
    with pytest.raises(UserError, match="takes text alone"):
        prompts.build_conversation([turn("user", IMAGE, "Why?")], [VISUAL])


def test_a_template_may_read_parts_of_the_users_turns_alone(tiny_llava: Path, tmp_path: Path) -> None:
    prompts = builder(tiny_llava, tmp_path, USERS_PARTS)
    turns = [turn("system", "Be brief."), turn("user", IMAGE, "Why?"), turn("assistant", "So."), turn("user", "Oh?")]
    expected = "[system] Be brief.\n[user] " + "<image>" * 144 + "Why?\n[assistant] So.\n[user] Oh?\n"
    built = prompts.build_conversation(turns, [VISUAL])
    assert built.token_ids.tolist() == prompts.tokenizer(expected)["input_ids"]


@pytest.mark.parametrize(
    ("template", "message"),
    [(NO_SYSTEM, "no place for a message of the role system"), (ALTERNATES, "these messages: System role not supp")],
)
def test_a_system_message_is_not_dropped_silently(
    tiny_llava: Path, tmp_path: Path, template: str, message: str
) -> None:
    prompts = builder(tiny_llava, tmp_path, template)
    assert prompts.build_conversation([turn("user", "Why?")], []).token_ids.size
    with pytest.raises(UserError, match=message):
        prompts.build_conversation([turn("system", "Be brief."), turn("user", "Why?")], [])
    with pytest.raises(UserError, match=message):
        prompts.build("Why?", [], system="Be brief.")


def test_without_a_template_there_are_no_messages(tiny_llava: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llava, tmp_path / "bare"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template: write all that the model reads into `prompt`"):
        PromptBuilder(copy, TOKENS).build_conversation([turn("user", "Why?")], [])


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        ([turn("user", IMAGE, "What of <image>?")], [A], "2 <image> for 1 images"),
        ([turn("user", "What of <image>?")], [], "1 <image> for 0 images"),
        ([turn("system", "<image>"), turn("user", IMAGE, "What?")], [A], "2 <image> for 1 images"),
        ([turn("user", IMAGE, "What?"), turn("assistant", "<image>"), turn("user", "Why?")], [A], "2 <image> for 1"),
    ],
)
def test_typed_tokens_of_images_are_refused(
    tiny_pipeline: Pipeline, turns: Turns, images: list[Image.Image], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tiny_pipeline.generate(images, messages=turns, max_new_tokens=1)


def test_a_typed_token_of_a_visual_token_is_refused(tiny_llava: Path) -> None:
    # Families whose marker is another token than the placeholder: a typed placeholder would shift all features.
    tokens = Tokens(image=3, video=2, video_marker="<video>", stop=())
    prompts = PromptBuilder(tiny_llava, tokens)
    with pytest.raises(UserError, match="the model's own token for a visual token in its text"):
        prompts.build("What <pad>?", [VISUAL])


BAD: list[tuple[Any, str]] = [
    (None, "there is no question: give `prompt`, or messages"),
    ("hi", r"^messages: "),
    ({"role": "user", "content": "x"}, r"^messages: "),
    ([], "the last one must be the user's"),
    (["x"], r"^messages\[0\]: "),
    ([{"role": "user"}], r"^messages\[0\]\.content: field required"),
    ([{"role": "tool", "content": "x"}], r"^messages\[0\]\.role: .*'system', 'user' or 'assistant'"),
    ([{"role": "user", "content": 3}], r"^messages\[0\]\.content: .*list"),
    ([{"role": "user", "content": None}], r"^messages\[0\]\.content: .*list"),
    ([{"role": "user", "content": "  "}], r"^messages\[0\] is empty"),
    ([{"role": "user", "content": []}], r"^messages\[0\] is empty"),
    ([{"role": "user", "content": ["x"]}], r"^messages\[0\]\.content\[0\]: "),
    ([{"role": "user", "content": "\udcff"}], r"the text of messages\[0\]: not valid Unicode"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], r"content\[0\]: .*'text', 'image', 'vid"),
    ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], r"content\[0\]\.image\.url: extra"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], r"content\[0\]\.text\.text: .*string"),
    ([{"role": "user", "content": [IMAGE, text("x")]}], r"^messages\[0\]: no image for it"),
    ([{"role": "user", "content": [{"type": "image", "image": [A, B]}]}], r"^messages\[0\]: 2 images in one part"),
    ([{"role": "user", "content": [{"type": "image", "image": "no.png"}]}], r"no\.png: no such image"),
    ([turn("user", "x"), turn("assistant", "y")], "the last one must be the user's"),
]


@pytest.mark.parametrize(("messages", "message"), BAD)
def test_what_are_no_messages_is_one_line(tiny_pipeline: Pipeline, messages: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny_pipeline.generate(messages=messages, max_new_tokens=1)
    assert "\n" not in str(caught.value)


def test_images_are_inside_or_beside(tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    A.save(tmp_path / "a.png")
    inside = {"type": "image", "image": str(tmp_path / "a.png")}

    def ask(turns: Turns, images: Any = ()) -> Any:
        return tiny_pipeline.generate(images, messages=turns, max_new_tokens=6, ignore_stop=True)

    expected = tiny_pipeline.generate([A, B], "<image>\n<image>\nWhich?", max_new_tokens=6, ignore_stop=True)
    for turns, images in (
        ([turn("user", inside, {"type": "image", "image": B}, "Which?")], ()),
        ([turn("user", inside, IMAGE, "Which?")], B),
        ([turn("user", IMAGE, IMAGE, "Which?")], [A, np.asarray(B)]),
    ):
        answer = ask(turns, images)
        assert (answer.token_ids, answer.visual_tokens) == (expected.token_ids, 288)
    swapped = ask([turn("user", {"type": "image", "image": B}, inside, "Which?")])
    assert swapped.token_ids != expected.token_ids
    with pytest.raises(UserError, match=r'no place for 1 of the images given: write \{"type": "image"\}'):
        ask([turn("user", IMAGE, "Which?")], [A, B])
    with pytest.raises(UserError, match="`prompt`: write it as one of the messages"):
        tiny_pipeline.generate(A, "Which?", messages=[turn("user", "Which?")])
    with pytest.raises(UserError, match="`system`: write it as one of the messages"):
        tiny_pipeline.generate(messages=[turn("user", "Which?")], system="Be brief.")


def test_an_answer_goes_back_as_it_came(tiny_pipeline: Pipeline) -> None:
    first = tiny_pipeline.generate(A, "What?", max_new_tokens=4)
    loaded = json.loads(first.model_dump_json())
    assert type(first).model_validate(loaded) == first
    turns = [turn("user", IMAGE, "What?"), turn("assistant", loaded["text"] or "x"), turn("user", "Why?")]
    assert tiny_pipeline.generate(A, messages=turns, max_new_tokens=1).prompt_tokens > first.prompt_tokens
