"""Tokens under a grammar: what a model would say anyway stays, whatever its tokenizer, and forced ones cost no call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from fastv_export.families.qwen_vl_chat.processor import write_tokenizer
from fastv_runtime.config.generation_config import GenerationDefaults
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.answer_text import AnswerText
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.grammar import Grammar, GrammarTokenizer
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.sampling import Sampler, Sampling
from tests.schemas import CARD
from tests.tiny import CORPUS, tiny_tokenizer
from tests.tiny_qwen_vl import TOKENS, write_vocabulary

MOST = 400


class Scripted:
    """A decoder that would say given tokens, whatever was said before them."""

    def __init__(self, tokens: list[int], vocabulary: int):
        self._tokens, self._vocabulary = tokens, vocabulary
        self.calls = self.rows = 0

    @property
    def token(self) -> int:
        return self._tokens[min(self.rows, len(self._tokens) - 1)]

    @property
    def logits(self) -> Any:
        logits = np.zeros(self._vocabulary, np.float32)
        logits[self.token] = 1
        return logits

    def step(self, rows: int = 1) -> None:
        self.calls += 1
        self.rows += rows


class _Silent:
    notes: tuple[str, ...] = ()


def follow(
    tokenizer: Tokenizer,
    script: list[int],
    grammar: Grammar | None,
    stop: list[int],
    *,
    limit: int = MOST,
    defaults: GenerationDefaults | None = None,
    sampling: Sampling | None = None,
) -> tuple[Answer, Scripted]:
    """The answer of a model that would say `script`, and what it was asked to compute."""
    vocabulary = tokenizer.get_vocab_size() + 3  # padded, as many models' are
    decoder = Scripted(script, vocabulary)
    answer = Answer(
        prompt_tokens=1, visual_tokens=0, kept_visual_tokens=[], pruned_length=1, keep=1, backend="scripted", notes=[]
    )
    sampling = sampling or Sampling()
    loop = TokenLoop(
        answer,
        decoder,  # type: ignore[arg-type]
        _Silent(),  # type: ignore[arg-type]
        lambda tokens: None,
        AnswerText(tokenizer),
        Sampler(sampling),
        LogitRules(defaults or GenerationDefaults(), np.asarray([0]), stop),
        frozenset(stop),
        limit,
        Clock(),
        None if grammar is None else GrammarTokenizer(tokenizer, vocabulary, stop).matcher(grammar),
    )
    pieces = []
    while not answer.finish_reason:
        pieces.append(loop.advance())
    assert "".join(pieces) == answer.text
    return answer, decoder


def byte_level() -> tuple[Tokenizer, int]:
    """As Qwen's and SmolLM2's are: BPE over bytes."""
    tokenizer = tiny_tokenizer().backend_tokenizer
    return tokenizer, tokenizer.token_to_id("</s>")


def sentence_piece() -> tuple[Tokenizer, int]:
    """As LLaMA's is: BPE over characters, a space before the first word, bytes for what is in no word."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces, first = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), first])
    special, bytes_ = ["<unk>", "<s>", "</s>", "<image>"], [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *bytes_], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, '{"color": "red"}'], trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [each for each in described["added_tokens"] if each["content"] in special]
    return Tokenizer.from_str(json.dumps(described)), 2


def tiktoken_made(folder: Path) -> tuple[Tokenizer, int]:
    """As Qwen-VL-Chat's is, of which an export makes a tokenizer.json."""
    write_vocabulary(folder / "qwen.tiktoken")
    write_tokenizer(folder, folder / "processor", TOKENS - 1)
    tokenizer = Tokenizer.from_file(str(folder / "processor" / "tokenizer.json"))
    return tokenizer, tokenizer.token_to_id("<|im_end|>")


@pytest.fixture(params=["byte level", "sentence piece", "tiktoken"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, int]:
    if request.param == "tiktoken":
        return tiktoken_made(tmp_path)
    return byte_level() if request.param == "byte level" else sentence_piece()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"color": "red", "a long name of a thing": 7}),
        json.dumps({"color": "blue", "a long name of a thing": 10}, indent=2),
        json.dumps({"color": "green", "a long name of a thing": 0}, separators=(",", ":")),
        json.dumps({"color": "green", "a long name of a thing": 99}, indent="\t"),
    ],
)
def test_valid_json_is_left_as_the_model_has_it(tokenizer: tuple[Tokenizer, int], text: str) -> None:
    """Whatever its white space, token for token, to the stop token; and with fewer calls of the model's graphs."""
    each, stop = tokenizer
    script = [*each.encode(text, add_special_tokens=False).ids, stop]
    plain, plainly = follow(each, script, None, [stop])
    answer, decoder = follow(each, script, Grammar.json_schema(CARD), [stop])
    assert (answer.token_ids, answer.text, answer.finish_reason) == (script, plain.text, "stop")
    assert json.loads(answer.text) == json.loads(text)
    assert decoder.calls < 0.8 * plainly.calls


def test_words_by_an_expression_are_left_as_the_model_has_them(tokenizer: tuple[Tokenizer, int]) -> None:
    each, stop = tokenizer
    script = [*each.encode("the quick é fox", add_special_tokens=False).ids, stop]
    answer, _ = follow(each, script, Grammar.regex("the [a-z]+ é (fox|dog)"), [stop])
    plain, _ = follow(each, script, None, [stop])
    assert (answer.token_ids, answer.text) == (script, plain.text)
    assert answer.text.endswith("the quick é fox")


def test_a_tokenizer_that_has_no_bytes_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    with pytest.raises(UserError, match="this model's tokenizer cannot follow a grammar") as caught:
        GrammarTokenizer(tokenizer, 3, [1])
    assert "\n" not in str(caught.value)


def test_the_last_of_several_stop_tokens_ends_it_too() -> None:
    each, stop = byte_level()
    other = each.token_to_id("<pad>")
    script = [*each.encode("12", add_special_tokens=False).ids, other]
    answer, _ = follow(each, script, Grammar.regex("[0-9]+"), [stop, other])
    assert (answer.token_ids, answer.finish_reason) == (script, "stop")


def test_a_stop_token_that_is_a_letter_stops_where_the_grammar_may_end() -> None:
    each, _ = byte_level()
    (letter,) = each.encode("x", add_special_tokens=False).ids
    answer, _ = follow(each, [letter] * 9, Grammar.regex("[a-f]{2}[a-z]?"), [letter])
    assert re.fullmatch("[a-f]{2}x", answer.text) and answer.token_ids[-1] == letter


def test_the_limit_within_json_is_told() -> None:
    each, stop = byte_level()
    script = [*each.encode(json.dumps({"color": "red", "a long name of a thing": 7})).ids, stop]
    for limit in range(1, len(script) + 1):
        answer, _ = follow(each, script, Grammar.json_schema(CARD), [stop], limit=limit)
        assert answer.token_ids == script[:limit]
        whole = limit >= len(script) - 1  # the last brace, whether or not a stop token has room behind it
        assert answer.finish_reason == ("stop" if whole else "length")
        assert any("the JSON is incomplete" in note for note in answer.notes) != whole


def test_a_number_that_might_go_on_at_the_limit_is_whole() -> None:
    each, stop = byte_level()
    answer, _ = follow(each, each.encode("1234").ids, Grammar.regex("[0-9]+"), [stop], limit=2)
    assert (answer.text, answer.finish_reason, answer.notes) == ("12", "length", [])


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize(
    "rules",
    [
        {"min_new_tokens": 50},
        {"suppress_tokens": "all"},
        {"begin_suppress_tokens": "all"},
        {"no_repeat_ngram_size": 1},
        {"repetition_penalty": 5.0},
    ],
    ids=str,
)
def test_rules_of_the_checkpoint_give_way_to_the_grammar(rules: dict[str, Any], temperature: float) -> None:
    each, stop = byte_level()
    everything = tuple(range(each.get_vocab_size() + 3))
    defaults = GenerationDefaults(**{name: everything if value == "all" else value for name, value in rules.items()})
    script = [*each.encode(json.dumps({"color": "red", "a long name of a thing": 7})).ids, stop]
    answer, _ = follow(
        each, script, Grammar.json_schema(CARD), [stop], defaults=defaults, sampling=Sampling(temperature=temperature)
    )
    assert answer.finish_reason == "stop"
    Draft202012Validator(CARD).validate(json.loads(answer.text))


def test_tokens_alone_are_sampled_under_a_rule_that_leaves_some() -> None:
    """The grammar has the last word, but not the only one."""
    each, stop = byte_level()
    (letter,) = each.encode("a", add_special_tokens=False).ids
    banned = GenerationDefaults(suppress_tokens=(letter,))
    answer, _ = follow(each, [letter, stop], Grammar.regex("[ab]{3}"), [stop], defaults=banned)
    assert answer.text == "bbb"
