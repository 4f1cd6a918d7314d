"""Answers that follow a grammar: valid by jsonschema and `re`, whatever a model of no sense would say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fastv_runtime import Pipeline
from fastv_runtime.cli.run import main
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls import streaming
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.decoding.linked import LinkedDecoder
from fastv_runtime.generation.grammar import Grammar
from fastv_runtime.memory.bindings import STEP_ROWS
from tests.conftest import MakeBundle, noise_image
from tests.schemas import CARD, random_schema, refused_schema
from tests.tiny import write_tiny_llava

QUESTION = "What is it?"
MOST = 400


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Pipeline:
    """Of a model that says anything: few layers of random weights, and an answer may be long."""
    source = write_tiny_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava", layers=2)
    bundle = make_bundle(source, prune=False, layer=None, keep=None, max_text=64, max_new_tokens=MOST, verify=False)
    return Pipeline.load(bundle, threads=1)


def ask(pipeline: Pipeline, **options: Any) -> Answer:
    return pipeline.generate(prompt=QUESTION, **options)


def hot(pipeline: Pipeline, seed: int, grammar: Grammar, **options: Any) -> Answer:
    """Sampled so that nearly anything that is allowed may come."""
    return ask(pipeline, grammar=grammar, temperature=3.0, seed=seed, **{"max_new_tokens": MOST, **options})


@pytest.mark.parametrize("batch", range(10))
def test_answers_are_valid_by_200_random_schemas(pipeline: Pipeline, batch: int) -> None:
    for seed in range(20 * batch, 20 * batch + 20):
        schema = random_schema(seed)
        Draft202012Validator.check_schema(schema)
        answer = hot(pipeline, seed, Grammar.json_schema(schema))
        if answer.finish_reason == "stop":
            Draft202012Validator(schema).validate(json.loads(answer.text))
            assert not any("JSON" in note for note in answer.notes)
        else:  # digits without end
            assert '"number"' in json.dumps(schema)
            assert any("the JSON is incomplete" in note for note in answer.notes) or json.loads(answer.text)


def test_most_random_schemas_are_no_trifles() -> None:
    """So that the test above has something to say."""
    texts = [json.dumps(random_schema(seed)) for seed in range(200)]
    for word in ("properties", "prefixItems", "anyOf", "$ref", "pattern", "maxLength", "maximum", "enum"):
        assert sum(f'"{word}"' in text for text in texts) >= 25, word
    assert len(set(texts)) > 150


@pytest.mark.parametrize("seed", range(40))
def test_schemas_that_nothing_enforces_are_refused_with_the_reason(seed: int) -> None:
    schema, why = refused_schema(seed)
    with pytest.raises(UserError) as caught:
        Grammar.json_schema(schema)
    assert str(caught.value).startswith("`json_schema`: ") and why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_json_object(pipeline: Pipeline) -> None:
    found = [hot(pipeline, seed, Grammar.json_object()) for seed in range(5)]
    assert any(answer.finish_reason == "stop" for answer in found)
    assert all(isinstance(json.loads(each.text), dict) for each in found if each.finish_reason == "stop")


def test_a_schema_that_refers_to_itself(pipeline: Pipeline) -> None:
    chain = {
        "type": "object",
        "properties": {"v": {"enum": [0, 1]}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["v", "next"],
        "additionalProperties": False,
    }
    ended = [a for a in (hot(pipeline, s, Grammar.json_schema(chain)) for s in range(5)) if a.finish_reason == "stop"]
    assert ended
    for answer in ended:
        Draft202012Validator(chain).validate(json.loads(answer.text))


@pytest.mark.parametrize(
    "pattern", ["(red|blue) [a-z]{2,5}", r"\d{1,3}( cm|%)?", "[A-C]", "é(🎉|日本)?x", "", " a{1,3}", "a\nb?", "^x/y$"]
)
def test_the_whole_answer_matches_an_expression(pipeline: Pipeline, pattern: str) -> None:
    texts = set()
    for seed in range(5):
        answer = hot(pipeline, seed, Grammar.regex(pattern))
        assert answer.finish_reason == "stop" and re.fullmatch(pattern, answer.text), answer.text
        texts.add(answer.text)
    assert len(texts) > 1 or pattern in ("", "^x/y$")


def test_forced_tokens_run_together_and_the_answer_is_the_same(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    step = LinkedDecoder.step

    def counted(self: LinkedDecoder, rows: int = 1) -> None:
        calls.append(rows)
        step(self, rows)

    monkeypatch.setattr(LinkedDecoder, "step", counted)
    answers, counts = [], []
    for most in (1, 3, STEP_ROWS):
        monkeypatch.setattr(streaming, "STEP_ROWS", most)
        calls.clear()
        answers.append(hot(pipeline, 2, Grammar.json_schema(CARD)))
        counts.append(len(calls))
        assert sum(calls) == len(answers[-1].token_ids) - 2  # neither the last brace nor the stop token
        assert max(calls) == most or most == STEP_ROWS
    assert len({tuple(answer.token_ids) for answer in answers}) == 1
    assert counts[0] > counts[1] > counts[2] and counts[2] < 0.75 * counts[0]


def test_a_stop_string_within_json_is_told(pipeline: Pipeline) -> None:
    answer = hot(pipeline, 0, Grammar.json_schema(CARD), stop=["col"])
    assert answer.finish_reason == "stop" and "col" not in answer.text
    assert any("the JSON may be incomplete: `stop` ended it" in note for note in answer.notes)


def test_without_a_grammar_nothing_changes(pipeline: Pipeline) -> None:
    asked: dict[str, Any] = {"images": noise_image(3), "temperature": 1.0, "seed": 3, "max_new_tokens": 20}
    before = ask(pipeline, **asked)
    hot(pipeline, 3, Grammar.json_schema(CARD))
    assert ask(pipeline, **asked).token_ids == before.token_ids


def test_the_same_seed_gives_the_same_answer(pipeline: Pipeline) -> None:
    grammar = Grammar.json_schema(CARD)
    assert hot(pipeline, 5, grammar).token_ids == hot(pipeline, 5, grammar).token_ids
    assert len({hot(pipeline, seed, grammar).text for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Grammar.json_schema("{"), "not JSON: line 1"),
        (lambda: Grammar.json_schema('{"type": "object", "type": "array"}'), "type twice"),
        (lambda: Grammar.json_schema("[1]"), "must be an object, true or false"),
        (lambda: Grammar.json_schema(3), "must be an object, true or false"),  # type: ignore[arg-type]
        (lambda: Grammar.json_schema(False), "Unsatisfiable"),
        (lambda: Grammar.json_schema({"const": float("nan")}), "no JSON"),
        (lambda: Grammar.json_schema({"const": object()}), "no JSON"),
        (lambda: Grammar.json_schema({"x-guidance": {"lenient": True}}), "x-guidance is no keyword"),
        (lambda: Grammar.json_schema(json.loads('{"items":' * 300 + "{}" + "}" * 300)), "recursion limit"),
        (lambda: Grammar.json_schema("[" * 100_000), "nested too deeply"),
        (lambda: Grammar.json_schema({"enum": ["x" * (1 << 17)]}), "characters: at most"),
        # Each would keep a server busy for seconds, or minutes.
        (
            lambda: Grammar.json_schema({"type": "integer", "multipleOf": 99991}),
            "least common multiple of its multipleOf is above",
        ),
        (
            lambda: Grammar.json_schema({"items": {"multipleOf": 0.00099991}}),
            "least common multiple of its multipleOf is above",
        ),
        (
            lambda: Grammar.json_schema({"allOf": [{"multipleOf": 499}, {"multipleOf": 0.1}, {"multipleOf": 491}]}),
            "multiple",
        ),
        (
            lambda: Grammar.json_schema({"patternProperties": {f"^{i}x": {} for i in range(200)}}),
            "200 patternProperties",
        ),
        (lambda: Grammar.regex("(a"), "unclosed group"),
        (lambda: Grammar.regex(r"(a)\1"), "backreferences are not supported"),
        (lambda: Grammar.regex(r"\ba"), "lookarounds not supported"),
        (lambda: Grammar.regex("a" * (1 << 18)), "characters: at most"),
        (lambda: Grammar.regex(b"a"), "type bytes where text is expected"),  # type: ignore[arg-type]
    ],
)
def test_what_no_answer_can_follow_is_refused_in_one_line(make: Callable[[], Grammar], why: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert why in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_multiples_that_share_their_divisors_are_taken() -> None:
    parts = {f"p{index}": {"type": "number", "multipleOf": each} for index, each in enumerate((0.25, 5, 100, 0.01))}
    assert Grammar.json_schema({"type": "object", "properties": parts}).kind == "json"


def test_equal_grammars_are_equal() -> None:
    assert Grammar.json_schema(CARD) == Grammar.json_schema(json.dumps(CARD)) != Grammar.json_object()
    assert len({Grammar.regex("a"), Grammar.regex("a"), Grammar.regex("b")}) == 2


def test_a_grammar_and_going_on_past_it_contradict(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match="leave one of them out"):
        ask(pipeline, grammar=Grammar.json_object(), ignore_stop=True)
    with pytest.raises(UserError, match="type dict where a Grammar is expected"):
        ask(pipeline, grammar={"type": "object"})


def test_the_command_takes_a_schema_or_an_expression(
    pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD), encoding="utf-8")

    def run(*options: str) -> str:
        main([str(pipeline.bundle.path), "--prompt", QUESTION, "--max-new-tokens", "200", "--json", "-q", *options])
        text: str = json.loads(capsys.readouterr().out)["text"]
        return text

    answers = [run("--json-schema", given) for given in (json.dumps(CARD), str(tmp_path / "card.json"))]
    assert answers[0] == answers[1]
    Draft202012Validator(CARD).validate(json.loads(answers[0]))
    assert re.fullmatch("[a-c]{3}", run("--regex", "[a-c]{3}"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--json-schema", '{"not": {}}'], "--json-schema: no answer can be made to follow it: Unimplemented keys"),
        (["--json-schema", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--json-schema", "{"], "--json-schema: not JSON"),
        (["--regex", "("], "--regex: no answer can be made to follow it: unclosed group"),
        (["--regex", "a", "--json-schema", "{}"], "not allowed with"),
    ],
)
def test_the_command_refuses_before_it_loads(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(pipeline.bundle.path), "--prompt", QUESTION, *options])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and why in error and len(error.strip().splitlines()) == 1


def test_without_llguidance_the_command_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"llguidance is not installed: pip install -e '\.\[serve\]'"):
        Grammar.json_object()


def test_answers_without_a_grammar_need_no_llguidance() -> None:
    code = "import sys; import fastv_runtime.generation.pipeline; assert 'llguidance' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_expression_of_a_million_states_is_refused_before_it_takes_seconds(tiny_pipeline: Pipeline) -> None:
    """Work is counted, not time: llguidance gives up at so many units."""
    with pytest.raises(UserError, match=r"`regex`: .*: simplify it"):
        tiny_pipeline.generate((), QUESTION, grammar=Grammar.regex("(a{1000}){1000}"), max_new_tokens=4)


def test_half_a_character_is_no_expression() -> None:
    with pytest.raises(UserError, match="`regex`: not valid Unicode"):
        Grammar.regex("\ud800")


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"type": "integer", "minimum": 10**30, "maximum": 10**30 + 5}, "minimum 1e+30: bounds are possible up to"),
        ({"type": "object", "minProperties": 2}, "minProperties 2 where 0 are required"),
        ({"type": "array", "items": {"x-guidance": {}}}, "x-guidance is no keyword"),
    ],
)
def test_what_would_be_enforced_by_half_is_refused(schema: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        Grammar.json_schema(schema)


def test_a_grammar_that_is_used_again_begins_anew(tiny_pipeline: Pipeline) -> None:
    grammar = Grammar.regex("ab(c|d)")
    one, two = (tiny_pipeline._slot.model.grammars.matcher(grammar) for _ in range(2))
    first = one.forced(10)
    assert first == two.forced(10) != []
