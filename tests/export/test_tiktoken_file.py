"""Tokenizers made of tiktoken files, against the tiktoken package reading the same file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastv_export.families.qwen_vl_chat.processor import write_tokenizer
from fastv_export.families.qwen_vl_chat.tiktoken_file import read_ranks
from fastv_runtime import UserError
from tests.tiny_qwen_vl import CORPUS, SPECIAL, TOKENS, original_tokenizer, write_vocabulary

Pair = tuple[Any, tiktoken.Encoding]

PIECES = [
    *CORPUS,
    *SPECIAL[:3],
    *SPECIAL[-9:],
    *[
        "aaaa",
        "aaaaa",
        "'s",
        "'LL",
        "\u0130",
        "12",
        "1",
        "½",
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\n\n",
        "\u00a0",
        "\u3000",
    ],
    *["e\u0301", "é", "ﬁ", "数字", "한국어", "مرحبا", "🙂", "👩🏽‍🚀", "\u200b", "!?", "...", "</", "<|im_", "Zeile"],
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tokenizer that a bundle holds, and tiktoken's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_vocabulary(folder / "qwen.tiktoken")
    write_tokenizer(folder, folder / "processor", TOKENS - 1)
    stock = AutoTokenizer.from_pretrained(folder / "processor", local_files_only=True, trust_remote_code=False)
    return stock, original_tokenizer(folder / "qwen.tiktoken")


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map("".join))
@settings(max_examples=300)
def test_ids_are_those_of_tiktoken(pair: Pair, text: str) -> None:
    stock, original = pair
    # The original normalises text so before tiktoken sees it.
    assert stock(text)["input_ids"] == original.encode(unicodedata.normalize("NFC", text), allowed_special="all")


@given(st.text())
def test_decoding_gives_the_text_back(pair: Pair, text: str) -> None:
    stock, _ = pair
    assert stock.decode(stock(text)["input_ids"]) == unicodedata.normalize("NFC", text)


def test_answers_keep_grounding_and_lose_control_tokens(pair: Pair) -> None:
    stock, original = pair
    text = "<ref>the circle</ref><box>(12,3),(45,6)</box>"
    ids = original.encode("<|im_start|>" + text + "<|im_end|><|endoftext|>", allowed_special="all")
    assert stock.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines, b"!! 1\n"], r"line 317 is no token and rank"),
        (lambda lines: [*lines, b"YWE=\n"], r"line 317 is no token and rank"),
        (lambda lines: lines[:300] + lines[301:], "ranks are missing"),
        (lambda lines: lines[1:], "ranks are missing"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    file = tmp_path / "qwen.tiktoken"
    write_vocabulary(file)
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(UserError, match=message):
        read_ranks(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"qwen\.tiktoken: no such file"):
        read_ranks(tmp_path / "qwen.tiktoken")
