"""Stop strings: text in any pieces ends where it does as a whole, and nobody sees a part of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fastv_runtime import Pipeline
from fastv_runtime.cli.run import main
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.answer_text import AnswerText
from fastv_runtime.generation.calls.stop_strings import StopStrings
from tests.conftest import noise_image
from tests.tiny import tiny_tokenizer

SENTENCE = "the quick ünï 日本語 🎉🎉 fox\n\njumps over"
STRINGS = st.lists(st.text("ab🎉", min_size=1, max_size=4), max_size=4)


def cut(text: str, strings: list[str]) -> str | None:
    """The text before the first stop string, letter by letter; None where there is none."""
    for end in range(1, len(text) + 1):
        sizes = [len(each) for each in strings if text[:end].endswith(each)]
        if sizes:
            return text[: end - max(sizes)]
    return None


@given(st.lists(st.text("ab🎉", max_size=5), max_size=8), STRINGS)
@example(["a", "a", "a", "b"], ["aab"])
@example(["a", "b", "a"], ["bc", "abab"])
@example(["ab"], ["b", "ab"])
def test_text_ends_before_the_first_whatever_its_pieces(pieces: list[str], strings: list[str]) -> None:
    text, expected = "".join(pieces), cut("".join(pieces), strings)
    stops, said, came = StopStrings(strings), "", ""
    for piece in pieces:
        said += stops(piece)
        came += piece
        assert (text if expected is None else expected).startswith(said)
        if stops.found:
            break
        # No more is held back than a string may begin with, and no less.
        begun = [len(s[:n]) for s in strings for n in range(1, len(s)) if came.endswith(s[:n])]
        assert len(came) - len(said) == max(begun, default=0)
    assert stops.found == (expected is not None)
    assert said + ("" if stops.found else stops.rest()) == (text if expected is None else expected)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer().backend_tokenizer


def streamed(tokenizer: Tokenizer, tokens: list[int], stop: list[str]) -> tuple[list[str], int]:
    """Pieces of text, and after how many tokens it ended."""
    text, pieces = AnswerText(tokenizer, stop), []
    for count, token in enumerate(tokens, start=1):
        pieces.append(text.add(token))
        if text.stopped:
            return pieces, count
    return [*pieces, text.end(tokens)], len(tokens)


@pytest.mark.parametrize("start", range(0, len(SENTENCE), 3))
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stop_string_may_begin_and_end_within_tokens_and_characters(
    tokenizer: Tokenizer, start: int, size: int
) -> None:
    """A character outside ASCII is several tokens of this tokenizer, one of its words a single one."""
    tokens = tokenizer.encode(SENTENCE).ids
    stop = SENTENCE[start : start + size]
    pieces, count = streamed(tokenizer, tokens, [stop, "never there"])
    assert "".join(pieces) == SENTENCE[: SENTENCE.index(stop)]
    assert stop in tokenizer.decode(tokens[:count]) and stop not in tokenizer.decode(tokens[: count - 1])


def test_a_text_without_a_stop_string_is_whole_to_half_a_character(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a fox 🎉").ids[:-1]
    pieces, _ = streamed(tokenizer, tokens, [" 🎉", "\N{REPLACEMENT CHARACTER}x"])
    assert "".join(pieces) == tokenizer.decode(tokens) == "a fox \N{REPLACEMENT CHARACTER}"


def test_a_special_token_is_a_stop_string_by_its_name(tokenizer: Tokenizer) -> None:
    tokens = [*tokenizer.encode("the fox ju").ids, tokenizer.token_to_id("<image>"), *tokenizer.encode("mps").ids]
    pieces, count = streamed(tokenizer, tokens, ["<image>", "jump"])
    assert ("".join(pieces), tokens[count - 1]) == ("the fox ju", tokenizer.token_to_id("<image>"))


def test_an_answer_ends_before_its_stop_string(tiny_pipeline: Pipeline) -> None:
    asked: dict[str, Any] = {"images": noise_image(5), "prompt": "What is it?", "max_new_tokens": 24}
    whole = tiny_pipeline.generate(**asked)
    stop = whole.text[len(whole.text) // 2 :][:3]
    generation = tiny_pipeline.stream(**asked, stop=stop)
    pieces = list(generation)
    answer = generation.answer
    assert "".join(pieces) == answer.text == whole.text[: whole.text.index(stop)]
    assert answer.finish_reason == "stop"
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)] and len(answer.token_ids) < 24


def test_an_answer_without_it_is_what_it_was(tiny_pipeline: Pipeline) -> None:
    asked: dict[str, Any] = {"images": noise_image(5), "prompt": "What is it?", "max_new_tokens": 24}
    plain = tiny_pipeline.generate(**asked)
    absent = [plain.text[-2:] + "x", "y" + plain.text[:1]]
    answer = tiny_pipeline.generate(**asked, stop=absent)
    assert (answer.text, answer.token_ids, answer.finish_reason) == (plain.text, plain.token_ids, plain.finish_reason)


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        ("", "must have 1 to 1000"),
        (["a", ""], "must have 1 to 1000"),
        (["x" * 1001], "1001 characters"),
        (list("abcde"), "5 stop strings: at most 4"),
        ([1], "type int where text is expected"),
        (3, "type int where a text or a list of them"),
        (b"a", "type bytes where a text or a list of them"),
        (["\ud800"], "not valid Unicode"),
    ],
)
def test_what_is_no_stop_string_is_refused(tiny_pipeline: Pipeline, stop: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        tiny_pipeline.stream(prompt="What is it?", stop=stop)


def test_a_stop_string_and_going_on_past_it_contradict(tiny_pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match="leave one of them out"):
        tiny_pipeline.stream(prompt="What is it?", stop="a", ignore_stop=True)


def test_the_command_takes_several(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*stop: str) -> str:
        main([str(tiny_bundle), "--prompt", "What is it?", "--max-new-tokens", "24", "--json", "-q", *stop])
        text: str = json.loads(capsys.readouterr().out)["text"]
        return text

    whole = run()
    stops = [whole[8:10], "\n", whole[5:6]]
    assert run(*(word for stop in stops for word in ("--stop", stop))) == cut(whole, stops) != whole
