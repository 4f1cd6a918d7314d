"""The public API on a tiny random LLaVA: what comes back, and that nothing is forgotten between prompts."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastv_runtime import Bundle, Pipeline, Sampling, UserError
from tests.conftest import MakeBundle, noise_image
from tests.tiny import VISUAL_TOKENS

QUESTION = "What color is it?"


def test_answer_says_what_was_kept(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    answer = tiny_pipeline.generate([image], QUESTION, max_new_tokens=5, ignore_stop=True)
    assert answer.visual_tokens == VISUAL_TOKENS
    kept = answer.kept_visual_tokens
    assert kept == sorted(set(kept))
    assert len(kept) == VISUAL_TOKENS // 2
    assert answer.pruned_length == answer.prompt_tokens - VISUAL_TOKENS // 2
    assert len(answer.token_ids) == 5
    assert answer.finish_reason == "length"
    assert answer.notes == []
    assert set(answer.timings_ms) == {
        "preprocess",
        "vision",
        "prefix",
        "select",
        "suffix",
        "ttft",
        "decode_per_token",
    }
    assert all(value > 0 for value in answer.timings_ms.values())


def test_fixed_length_keeps_more_where_text_leaves_room(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    answers = [tiny_pipeline.generate([image], text, max_new_tokens=1, length="fixed") for text in (QUESTION, "Is it?")]
    texts = [answer.prompt_tokens - VISUAL_TOKENS for answer in answers]
    assert 32 < texts[0] <= 64 and texts[1] <= 32
    assert [answer.pruned_length - VISUAL_TOKENS // 2 for answer in answers] == [64, 32]
    why = "more than keep 0.5 asks for: the pruned length is fixed in steps of 32"
    for answer, text, room in zip(answers, texts, (64, 32), strict=True):
        assert answer.notes == [f"{72 + room - text} visual tokens kept, {room - text} {why}"]


def test_several_images_are_pruned_together(tiny_pipeline: Pipeline) -> None:
    answer = tiny_pipeline.generate([noise_image(1), noise_image(2)], QUESTION, max_new_tokens=1)
    assert answer.visual_tokens == 2 * VISUAL_TOKENS
    assert len(answer.kept_visual_tokens) == VISUAL_TOKENS
    assert max(answer.kept_visual_tokens) >= VISUAL_TOKENS > min(answer.kept_visual_tokens)


def test_a_prompt_may_place_its_images(tiny_pipeline: Pipeline) -> None:
    images = [noise_image(1), noise_image(2)]
    first = tiny_pipeline.generate(images, "<image> and <image>: which?", max_new_tokens=1)
    assert first.visual_tokens == 2 * VISUAL_TOKENS
    with pytest.raises(UserError, match="1 <image> for 2 images"):
        tiny_pipeline.generate(images, "<image> alone", max_new_tokens=1)


def test_text_only_prompts_have_nothing_to_prune_and_say_so(tiny_pipeline: Pipeline) -> None:
    answer = tiny_pipeline.generate([], QUESTION, max_new_tokens=3, ignore_stop=True)
    assert answer.visual_tokens == 0
    assert answer.kept_visual_tokens == []
    assert answer.pruned_length == answer.prompt_tokens
    assert answer.notes == ["nothing to prune: the prompt has no image"]


def test_the_baseline_says_that_it_does_not_prune(
    tiny_llava: Path, make_bundle: MakeBundle, image: Image.Image
) -> None:
    pipeline = Pipeline.load(make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16), threads=1)
    answer = pipeline.generate([image], QUESTION, max_new_tokens=4, ignore_stop=True)
    assert answer.kept_visual_tokens == list(range(VISUAL_TOKENS))
    assert "exported without pruning" in answer.notes[0] and answer.keep == 1.0
    with pytest.raises(UserError, match=r"`keep` 0.5: this bundle was exported without pruning: leave `keep` out"):
        pipeline.generate([image], QUESTION, keep=0.5)


def test_keep_1_answers_as_the_baseline_does(tiny_llava: Path, make_bundle: MakeBundle) -> None:
    dense = Pipeline.load(make_bundle(tiny_llava, prune=False, max_text=64, max_new_tokens=16), threads=1)
    split = Pipeline.load(make_bundle(tiny_llava, layer=2, keep=1.0, max_text=64, max_new_tokens=16), threads=1)
    for seed in range(3):
        answers = [p.generate([noise_image(seed)], QUESTION, ignore_stop=True) for p in (dense, split)]
        assert answers[0].token_ids == answers[1].token_ids


def test_a_prompt_does_not_depend_on_the_one_before(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    def ask() -> list[int]:
        return tiny_pipeline.generate([image], QUESTION, max_new_tokens=8, ignore_stop=True).token_ids

    first = ask()
    tiny_pipeline.generate([noise_image(5), noise_image(6)], "a longer question " * 2, ignore_stop=True)
    tiny_pipeline.generate([], "no image at all", max_new_tokens=3)
    assert ask() == first


def test_stop_tokens_end_an_answer(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    plain = tiny_pipeline.generate([image], QUESTION, max_new_tokens=8, ignore_stop=True)
    stop = plain.token_ids[3]
    manifest = tiny_pipeline.bundle.manifest
    tokens = manifest.tokens.model_copy(update={"stop": (stop,)})
    bundle = Bundle(tiny_pipeline.bundle.path, manifest.model_copy(update={"tokens": tokens}))
    answer = Pipeline(bundle, threads=1).generate([image], QUESTION, max_new_tokens=8)
    assert answer.token_ids == plain.token_ids[: plain.token_ids.index(stop) + 1]
    assert answer.finish_reason == "stop"


def test_sampling_repeats_with_its_seed(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    def ask(seed: int) -> list[int]:
        sampling = Sampling(temperature=2.0, top_k=50, seed=seed)
        return tiny_pipeline.generate([image], QUESTION, sampling=sampling, ignore_stop=True).token_ids

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


def test_streamed_pieces_are_whole_characters_and_add_up(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    # A random model over byte-level tokens emits broken UTF-8 all the time: the hardest case for a stream.
    for seed in range(5):
        sampling = Sampling(temperature=3.0, seed=seed)
        generation = tiny_pipeline.stream([image], QUESTION, sampling=sampling, ignore_stop=True)
        pieces = list(generation)
        tokenizer = tiny_pipeline._slot.model.prompts.tokenizer
        assert "".join(pieces) == generation.answer.text
        assert generation.answer.text == tokenizer.decode(generation.answer.token_ids, skip_special_tokens=True)


def test_characters_of_several_tokens_are_not_split(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "naïve 数字 🙂🙃 ok"
    tokens = iter(tiny_pipeline._slot.model.prompts.tokenizer(text, add_special_tokens=False)["input_ids"])
    monkeypatch.setattr("fastv_runtime.generation.sampling.Sampler.pick", lambda self, logits: next(tokens, 1))
    pieces = list(tiny_pipeline.stream([], QUESTION, sampling=Sampling(temperature=1.0)))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len(pieces) > 5


def test_a_new_generation_ends_the_old_one(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    old = tiny_pipeline.stream([image], QUESTION, ignore_stop=True)
    next(old)
    tiny_pipeline.generate([image], QUESTION, max_new_tokens=1)
    with pytest.raises(RuntimeError, match="another generation"):
        for _ in old:
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "word " * 200}, r"supports at most 352.*larger `export.max_text`"),
        ({"max_new_tokens": 65}, "1 to 64.*larger `export.max_new_tokens`"),
        ({"max_new_tokens": 0}, "1 to 64"),
        ({"length": "other"}, "'fixed' or 'exact'"),
        ({"images": [noise_image(0)] * 3}, "max_images"),
    ],
)
def test_what_the_plan_cannot_bear_is_refused(
    tiny_pipeline: Pipeline, arguments: dict[str, object], message: str
) -> None:
    call = {"images": [noise_image(0)], "prompt": QUESTION} | arguments
    with pytest.raises(UserError, match=message):
        tiny_pipeline.generate(**call)  # type: ignore[arg-type]


def test_decoding_allocates_nothing_that_grows(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    generation = tiny_pipeline.stream([image], QUESTION, ignore_stop=True)
    for _ in range(8):
        next(generation)
    cache = tiny_pipeline._slot.decoder.arena["suffix.key_2"].array()
    where, before = cache.ctypes.data, cache.copy()
    tracemalloc.start()
    for _ in range(20):
        next(generation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One cache of one layer alone has 36 KiB of filled rows; a copy of any would show.
    assert peak < 16 * 1024
    assert cache.ctypes.data == where
    changed = np.flatnonzero((cache != before).any(axis=(0, 1, 3)))
    assert len(changed) >= 20
    assert np.array_equal(changed, np.arange(changed[0], changed[0] + len(changed)))


def test_image_features_land_in_the_prompt_without_a_copy(tiny_pipeline: Pipeline, image: Image.Image) -> None:
    tiny_pipeline.generate([image], "<image>" + QUESTION, max_new_tokens=1)
    visual = tiny_pipeline._slot.model._images(image)
    features = np.zeros((VISUAL_TOKENS, 64), np.float32)
    tiny_pipeline.backend.engine("vision").bind(visual.pieces[0].inputs, {"image_features": features}).run()
    ((start, _),) = tiny_pipeline._slot.model.prompts.build("<image>" + QUESTION, [visual]).runs
    prompt = tiny_pipeline._slot.decoder.prompt
    np.testing.assert_array_equal(prompt.rows(start, start + VISUAL_TOKENS).array(), features)


def test_logits_that_are_no_numbers_are_an_error_and_no_answer(
    tiny_pipeline: Pipeline, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pipeline(tiny_pipeline.bundle) as pipeline:
        table = np.full_like(np.asarray(tiny_pipeline.bundle.embedding()), np.nan)
        monkeypatch.setattr(pipeline._slot.model, "embedding", table)
        with pytest.raises(UserError, match="logits are no numbers"):
            pipeline.generate([image], QUESTION, max_new_tokens=2)
