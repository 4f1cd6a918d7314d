"""Samples as people write them, and one clear line for what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastv_calib.samples.data import read_data
from fastv_runtime.errors import UserError
from tests.conftest import noise_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        noise_image(ord(name[0])).save(tmp_path / name)
    return tmp_path


def test_a_line_is_a_sample(folder: Path) -> None:
    lines = [
        {"image": "a.png", "prompt": "What?"},
        {"images": ["a.png", "b.png"], "prompt": "Which?", "answer": "both"},
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = read_data(folder / "data.jsonl", None)
    assert (first.images, first.prompt, first.answer) == ((folder / "a.png",), "What?", None)
    assert (second.images, second.answer) == ((folder / "a.png", folder / "b.png"), "both")
    assert first.key != second.key


def test_a_folder_is_asked_one_prompt(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    samples = read_data(folder, "What is it?")
    assert [sample.images[0].name for sample in samples] == ["a.png", "b.png"]
    assert {sample.prompt for sample in samples} == {"What is it?"}


def test_a_key_follows_contents_not_names(folder: Path) -> None:
    before = [sample.key for sample in read_data(folder, "What?")]
    (folder / "a.png").rename(folder / "c.png")
    assert sorted(before) == sorted(sample.key for sample in read_data(folder, "What?"))
    assert set(before).isdisjoint(sample.key for sample in read_data(folder, "Who?"))


GOOD = '{"image": "a.png", "prompt": "What?"}\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no sample"),
        (GOOD + '{"image": "a.png", "prom', r"data\.jsonl:2: not JSON: "),
        (GOOD + "[1]\n", r"data\.jsonl:2: "),
        (GOOD + '{"image": "gone.png", "prompt": "What?"}\n', r"data\.jsonl:2: no such image: .*gone\.png"),
        ('{"image": "a.png", "prompt": "What?", "answer": " "}\n', r"data\.jsonl:1: the answer is empty"),
        ('{"image": "a.png", "prompt": ""}\n', r"data\.jsonl:1: the prompt is empty"),
        ('{"image": "a.png"}\n', r"data\.jsonl:1: prompt is missing"),
        ('{"image": "a.png", "prompt": "What?", "anwser": "x"}\n', r"data\.jsonl:1: anwser is no field"),
        ('{"prompt": "What?"}\n', r'data\.jsonl:1: give one of "image", "images" and "video"'),
        ('{"images": [], "prompt": "What?"}\n', r'data\.jsonl:1: give one of "image", "images" and "video"'),
        ('{"image": "a.png", "video": "a.mp4", "prompt": "What?"}\n', r'data\.jsonl:1: give one of "image"'),
        ('{"video": "gone.mp4", "prompt": "What?"}\n', r"data\.jsonl:1: no such video: .*gone\.mp4"),
        ('{"image": "a.png", "images": ["a.png"], "prompt": "What?"}\n', r'data\.jsonl:1: give one of "image"'),
    ],
)
def test_bad_lines_are_named(folder: Path, text: str, expected: str) -> None:
    (folder / "data.jsonl").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_data(folder / "data.jsonl", None)


def test_what_never_ends_is_not_read_whole() -> None:
    with pytest.raises(UserError, match="`data` /dev/zero: larger than 64 MiB"):
        read_data(Path("/dev/zero"), None)


def test_bad_folders_and_flags(folder: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_data(folder / "gone", None)
    with pytest.raises(UserError, match="needs a `prompt`"):
        read_data(folder, None)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="no images in it"):
        read_data(folder / "empty", "What?")
    (folder / "data.jsonl").write_text(GOOD)
    with pytest.raises(UserError, match="leave it out"):
        read_data(folder / "data.jsonl", "What?")
    (folder / "data.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        read_data(folder / "data.bin", None)
