"""Conversations of several clients over few slots: every turn is answered as if all of it were read anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastv_runtime import Pipeline
from fastv_runtime.backends.onnxruntime import OrtBinding
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.calls.question import GenerationInput, read_question
from fastv_runtime.generation.calls.settings import read_settings
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.model import Model
from fastv_runtime.generation.slot import Slot
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Failed, Finished, Job, Scheduler
from fastv_runtime.serving.scheduler.conversations import Conversations
from tests.serving.scheduled import IMAGES, job, results, serving, tokens_of

NEW = 6
QUESTIONS = ("What color is the circle?", "Where is it?", "Why?")
CLIENTS = 3


def messages(pipeline: Pipeline, client: int, turns: int) -> list[dict[str, Any]]:
    """What a client says in its last turn of so many: its own image, and the answers that it gets alone."""
    said: list[dict[str, Any]] = []
    for turn in range(turns):
        text = {"type": "text", "text": f"{QUESTIONS[turn]} {client}"}
        said.append({"role": "user", "content": [{"type": "image", "image": IMAGES[client]}, text][turn > 0 :]})
        if turn + 1 < turns:
            answer = pipeline.generate(messages=said, max_new_tokens=NEW, ignore_stop=True)
            said.append({"role": "assistant", "content": answer.text.strip() or "."})
    return said


@pytest.fixture(scope="module")
def said(tiny_pipeline: Pipeline) -> list[list[list[dict[str, Any]]]]:
    """By turn and client."""
    return [[messages(tiny_pipeline, client, turn + 1) for client in range(CLIENTS)] for turn in range(3)]


@pytest.fixture(scope="module")
def wanted(tiny_pipeline: Pipeline, said: list[list[list[dict[str, Any]]]]) -> list[list[list[int]]]:
    """Tokens of each, by a pipeline that reads all of it anew."""
    return [
        [
            tiny_pipeline.generate(messages=each, max_new_tokens=NEW, ignore_stop=True).token_ids
            for each in of_all_clients
        ]
        for of_all_clients in said
    ]


def conversations_of(scheduler: Scheduler) -> Conversations:
    return scheduler._graphs._conversations


def question_of(said: list[dict[str, Any]]) -> GenerationInput:
    return read_question(None, said, None, (), ())


def turn_of(scheduler: Scheduler, model: Model, said: Sequence[list[dict[str, Any]]]) -> list[tuple[list[int], int]]:
    """All clients ask at once: tokens of each, and how many of its prompt's tokens were reused."""
    settings = read_settings(model.manifest, max_new_tokens=NEW, ignore_stop=True)
    tickets = [scheduler.submit(Job(question_of(each), settings)) for each in said]
    events = results(*tickets)
    found = []
    for each in events:
        assert isinstance(each[-1], Finished)
        found.append((tokens_of(each), each[-1].answer.reused_tokens))
    return found


@pytest.mark.parametrize(("slots", "cache_bytes"), [(1, 1 << 28), (2, 1 << 28), (3, 0)])
def test_a_later_turn_goes_on_from_its_caches_whoever_asked_in_between(
    tiny_model: Model, said: Any, wanted: Any, slots: int, cache_bytes: int
) -> None:
    metrics = Metrics()
    with serving(tiny_model, slots=slots, cache_bytes=cache_bytes, metrics=metrics) as scheduler:
        for turn, (each, want) in enumerate(zip(said, wanted, strict=True)):
            found = turn_of(scheduler, tiny_model, each)
            assert [tokens for tokens, _ in found] == want
            # The image and the first question at least.
            assert all((reused > 144) == (turn > 0) for _, reused in found), found
    assert metrics.registry.get_sample_value("fastv_reused_tokens_total") > 2 * CLIENTS * 144  # type: ignore[operator]


@pytest.mark.parametrize("cache_bytes", [0, 1])
def test_without_room_each_turn_is_read_anew_and_nothing_is_copied_where_it_is_off(
    tiny_model: Model, said: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch, cache_bytes: int
) -> None:
    save, copies = Slot.save, []
    monkeypatch.setattr(Slot, "save", lambda slot: copies.append(slot) or save(slot))
    with serving(tiny_model, slots=1, cache_bytes=cache_bytes) as scheduler:
        for each, want in zip(said[:2], wanted[:2], strict=True):
            found = turn_of(scheduler, tiny_model, each)
            assert [tokens for tokens, _ in found] == want
        assert conversations_of(scheduler).nbytes == 0
    # Whoever is last in one turn may be first in the next.
    assert sum(reused > 144 for _, reused in found) <= 1
    assert bool(copies) == (cache_bytes > 0)


def test_kept_conversations_have_the_bytes_that_they_say(tiny_model: Model, said: Any) -> None:
    with serving(tiny_model, slots=1) as scheduler:
        turn_of(scheduler, tiny_model, said[0])
        kept = conversations_of(scheduler)._kept
        assert len(kept) == CLIENTS - 1
        rows = [each.saved.held.token_ids.size + NEW - 1 for each in kept]
        assert conversations_of(scheduler).nbytes == sum(each.saved.nbytes for each in kept)
        # Keys and values of two layers before the cut alone: 2 heads of 16, fp32.
        assert conversations_of(scheduler).nbytes > sum(rows) * 2 * 2 * 2 * 16 * 4


def test_an_image_that_was_shown_before_is_not_encoded_again(
    tiny_bundle: Path, tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = Encoder.__call__, []

    def counted(encoder: Encoder, *arguments: Any) -> None:
        encoded.append(encoder)
        encode(encoder, *arguments)

    monkeypatch.setattr(Encoder, "__call__", counted)
    model, metrics = Model(Bundle.open(tiny_bundle), threads=1), Metrics()
    asked = [(0, "Where?"), (1, "Where?"), (0, "Why?"), (2, "Why?"), (1, "What color?"), (0, "What color?")]
    with serving(model, slots=2, cache_bytes=1 << 22, metrics=metrics) as scheduler:
        assert model.features.limit == 1 << 20
        found = [
            tokens_of(results(scheduler.submit(job(model, NEW, image=image, text=text)))[0]) for image, text in asked
        ]
    assert len(encoded) == 3
    assert found == [
        tiny_pipeline.generate([IMAGES[image]], text, max_new_tokens=NEW, ignore_stop=True).token_ids
        for image, text in asked
    ]
    hits, misses = (
        metrics.registry.get_sample_value(f"fastv_feature_cache_{name}_total") for name in ("hits", "misses")
    )
    assert misses == 3
    # An image whose rows are still in a slot's caches is not even looked for.
    assert hits == model.features.hits <= 3


def test_a_conversation_goes_on_after_a_turn_that_failed_or_was_refused(
    tiny_model: Model, said: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings(tiny_model.manifest, max_new_tokens=NEW, ignore_stop=True)
    long = [{"role": "user", "content": "much too long " * 400}]
    with serving(tiny_model, slots=1) as scheduler:
        for turn in range(3):
            # In the middle of the second step: the layers before the cut have run, those behind it have not.
            with monkeypatch.context() as patch:
                fail_suffix(patch, runs=3)
                ((*_, failed),) = results(scheduler.submit(Job(question_of(said[turn][0]), settings)))
            assert isinstance(failed, Failed)
            assert isinstance(failed.error, MemoryError)
            ((*_, refused),) = results(scheduler.submit(Job(question_of(long), settings)))
            assert isinstance(refused, Failed)
            ((tokens, reused),) = turn_of(scheduler, tiny_model, said[turn][:1])
            assert tokens == wanted[turn][0]
            assert reused > 144


def fail_suffix(patch: pytest.MonkeyPatch, runs: int) -> None:
    """The last graph has no memory when it runs so many times."""
    run, seen = OrtBinding.run, []

    def counted(binding: OrtBinding) -> None:
        seen.append(binding._path.stem == "suffix")
        if sum(seen) == runs and seen[-1]:
            raise MemoryError
        run(binding)

    patch.setattr(OrtBinding, "run", counted)
