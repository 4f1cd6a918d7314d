"""`keep` auto on a tiny random LLaVA: what transformers' own scores ask for, and its answer with the rest masked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from fastv_export import api
from fastv_export.cli import parser as export_parser
from fastv_export.families import FAMILIES
from fastv_export.plan import CutOption, Options
from fastv_export.rankers import RANKERS
from fastv_export.verify.reference import ReferenceCut, load_model, pruned_by
from fastv_runtime import Answer, Pipeline
from fastv_runtime.bench.protocol import Request
from fastv_runtime.bench.runners.bundle import BackendChoice, BundleRunner
from fastv_runtime.bench.runners.entrants import check_settings, entrants_of
from fastv_runtime.cli.run import main as run_main
from fastv_runtime.config.bundle import Bundle, read_manifest
from fastv_runtime.config.wording import plan_of
from fastv_runtime.errors import UserError
from tests.conftest import MakeBundle, noise_image

QUESTION = "What color is the circle?"
VISUAL, STEP = 144, 9
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def stock(tiny_llava: Path) -> tuple[Any, Any]:
    model = load_model(tiny_llava, FAMILIES["llava"])
    model.generation_config.eos_token_id = None
    return model, AutoProcessor.from_pretrained(tiny_llava, local_files_only=True)


@pytest.fixture(scope="module")
def two_cuts(tiny_llava: Path, make_bundle: MakeBundle) -> Path:
    """At layers 2 and 4, with a share of its own."""
    return make_bundle(
        tiny_llava, cuts=(CutOption(2, 0.6), CutOption(4, 0.3)), share=0.6, max_text=64, max_new_tokens=64, verify=False
    )


@pytest.fixture(scope="module")
def two_cut_pipeline(two_cuts: Path) -> Pipeline:
    return Pipeline.load(two_cuts, threads=1)


def ask(pipeline: Pipeline, seed: int, **options: Any) -> Answer:
    return pipeline.generate([noise_image(seed)], QUESTION, max_new_tokens=NEW_TOKENS, ignore_stop=True, **options)


def masked(
    stock: tuple[Any, Any], seed: int, cuts: Sequence[tuple[int, float]], share: float
) -> tuple[list[list[int]], list[int]]:
    """Visual tokens that stay at each (layer, most that stay), and the answer, of transformers masked from there on.

    How many stay is counted here one token after the other, from the attention that transformers returns.
    """
    model, processor = stock
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[noise_image(seed)], text=text, return_tensors="pt", add_special_tokens=False)
    visual = inputs["input_ids"][0] == model.config.image_token_id

    def fewest(scores: torch.Tensor, most: int) -> int:
        best = sorted(scores.double().tolist(), reverse=True)
        count = next(count for count in range(1, len(best) + 1) if sum(best[:count]) >= share * sum(best))
        return min(most, -(-count // STEP) * STEP)

    order = torch.cumsum(visual, 0) - 1
    chain: list[ReferenceCut] = []
    for layer, keep in cuts:  # what a cut is given depends on those before, and not on what comes after
        words = int((~visual).sum())
        everything = words + VISUAL if not chain else chain[-1].length
        with torch.no_grad(), pruned_by(model.get_decoder(), visual, [*chain, ReferenceCut(layer, everything)]) as seen:
            model(**inputs)
        rows = seen[-2].keep if chain else torch.arange(visual.numel())
        count = fewest(seen[-1].scores[visual[rows]], round(keep * VISUAL))
        chain.append(ReferenceCut(layer, words + min(count, int(visual[rows].sum()))))
    with torch.no_grad(), pruned_by(model.get_decoder(), visual, chain) as seen:
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return [order[each.keep[visual[each.keep]]].tolist() for each in seen], output[0, visual.numel() :].tolist()


@pytest.mark.parametrize(("seed", "share"), [(1, 0.2), (2, 0.5), (3, 0.6), (4, 0.999)])
def test_an_answer_is_that_of_transformers_masked(
    tiny_pipeline: Pipeline, stock: tuple[Any, Any], seed: int, share: float
) -> None:
    answer = ask(tiny_pipeline, seed, keep="auto", share=share)
    kept, tokens = masked(stock, seed, [(2, 0.5)], share)
    assert ([answer.kept_visual_tokens], answer.token_ids) == (kept, tokens)
    assert (answer.share, answer.keep) == (share, 0.5)
    assert answer.pruned_length == answer.prompt_tokens - VISUAL + len(kept[0])
    assert len(kept[0]) % STEP == 0 and (len(kept[0]) == VISUAL // 2) == (share == 0.999)


def test_prompts_keep_different_counts(tiny_pipeline: Pipeline) -> None:
    counts = {
        len(ask(tiny_pipeline, seed, share=0.5, keep=1.0 if seed % 2 else None).kept_visual_tokens) for seed in range(6)
    }
    assert len(counts) > 1


@pytest.mark.parametrize(("seed", "share"), [(1, None), (2, 0.3), (5, 0.9)])
def test_every_cut_of_a_chain_counts_for_itself(
    two_cut_pipeline: Pipeline, stock: tuple[Any, Any], seed: int, share: float | None
) -> None:
    """No share asked for: the plan's."""
    answer = ask(two_cut_pipeline, seed, share=share)
    kept, tokens = masked(stock, seed, [(2, 0.6), (4, 0.3)], share or 0.6)
    assert [cut.kept_visual_tokens for cut in answer.cuts] == kept
    assert answer.token_ids == tokens
    assert answer.share == (share or 0.6)


def test_a_number_is_that_number_whatever_the_plans_share(two_cut_pipeline: Pipeline) -> None:
    answer = ask(two_cut_pipeline, 1, keep=0.25)
    assert [len(cut.kept_visual_tokens) for cut in answer.cuts] == [round(0.6 * VISUAL), VISUAL // 4]
    assert (answer.keep, answer.share) == (0.25, None)


def test_fixed_lengths_have_room_for_steps_of_text(tiny_pipeline: Pipeline) -> None:
    exact, fixed = (ask(tiny_pipeline, 2, share=0.5, length=policy) for policy in ("exact", "fixed"))
    text = exact.prompt_tokens - VISUAL
    assert fixed.pruned_length == exact.pruned_length - text + 64
    assert set(exact.kept_visual_tokens) < set(fixed.kept_visual_tokens)


def test_notes_say_where_keep_allows_less(tiny_pipeline: Pipeline) -> None:
    assert ask(tiny_pipeline, 2, share=0.2).notes == []
    (note,) = ask(tiny_pipeline, 2, keep=0.125, share=0.99).notes
    assert note.startswith("18 visual tokens kept, all that keep 0.125 allows, where share 0.99 asks for ")
    assert int(note.split()[-1]) > 18


def test_a_prompt_without_an_image_is_answered(tiny_pipeline: Pipeline) -> None:
    answer = tiny_pipeline.generate([], QUESTION, keep="auto", max_new_tokens=2)
    assert answer.notes == ["nothing to prune: the prompt has no image"]


def test_scores_are_read_for_auto_alone(tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    scored = type(tiny_pipeline.decoder)._scored  # type: ignore[attr-defined]
    monkeypatch.setattr(
        type(tiny_pipeline.decoder), "_scored", lambda self, *args: read.append(args) or scored(self, *args)
    )
    ask(tiny_pipeline, 1)
    ask(tiny_pipeline, 1, keep=0.25)
    assert read == []
    answer = ask(tiny_pipeline, 1, keep="auto")
    assert read == [(1, answer.prompt_tokens)] and answer.share == 0.9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": "most"}, "`keep` 'most': must be a number above 0 and at most 1, or 'auto'"),
        ({"share": 0.0}, "`share` 0.0: must be a number above 0 and below 1"),
        ({"share": 1}, "`share` 1: must be a number above 0 and below 1"),
        ({"share": True}, "`share` True: must be"),
        ({"share": "0.5"}, "`share` '0.5': must be"),
        ({"keep": 1.5, "share": 0.5}, "`keep` 1.5: must be above 0 and at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_pipeline: Pipeline, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        ask(tiny_pipeline, 1, **options)
    assert str(caught.value).startswith(said)


def test_an_export_hands_the_share_to_its_plan(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(api, "export_through", lambda folder, source, output, options, *_, **__: asked.append(options))
    monkeypatch.setattr(api, "build_after_export", lambda *_: None)
    for options in (
        {"keep": "auto"},
        {"keep": "auto", "share": 0.7, "keep_steps": 8},
        {"keep": 0.25, "share": 0.8},
        {"cuts": [(2, 0.5), (3, 0.2)], "keep": "auto"},
    ):
        api.export(tiny_llava, tmp_path / "a.fastv", **options)  # type: ignore[arg-type]
    assert [(each.share, each.keep, each.keep_steps, len(each.cuts)) for each in asked] == [
        (0.9, None, 16, 0),
        (0.7, None, 8, 0),
        (0.8, 0.25, 16, 0),
        (0.9, None, 16, 2),
    ]


def test_the_command_hands_them_over(monkeypatch: pytest.MonkeyPatch) -> None:
    given = export_parser().parse_args(["a", "-o", "b", "--keep", "auto", "--share", "0.7", "--keep-steps", "8"])
    assert (given.keep, given.share, given.keep_steps) == ("auto", 0.7, 8)
    with pytest.raises(SystemExit):
        export_parser().parse_args(["a", "-o", "b", "--share", "1"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"share": 1.0}, "`share` 1: must be above 0 and below 1"),
        ({"keep": "none"}, "`keep` 'none': must be a number or 'auto'"),
        ({"keep": "auto", "prune": False}, "`share` 0.9: an unpruned model"),
        ({"keep_steps": 0}, "`keep_steps` 0: must be 1 to"),
        ({"keep_steps": 4, "prune": False}, "`keep_steps` 4: an unpruned model"),
    ],
)
def test_an_export_refuses_what_makes_no_sense(
    tiny_llava: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        api.export(tiny_llava, tmp_path / "a.fastv", **options)
    assert str(caught.value).startswith(said)


def test_an_export_refuses_a_share_of_scores_that_its_ranker_does_not_read(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RANKERS, "dart", replace(RANKERS["dart"], signals=("key_norms",)))
    with pytest.raises(UserError) as caught:
        api.export(tiny_llava, tmp_path / "a.fastv", cuts=[(2, 0.5), (3, 0.2, "dart")], share=0.8)
    line = str(caught.value)
    assert line.startswith(
        "`share` 0.8: is of the last prompt token's scores, which `ranker` dart, at layer 3, does not read: leave "
    )
    assert "fastv, " in line and "dart" not in line.split("use one of ")[1]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"share": 0}, "share"),
        ({"share": 1}, "share"),
        ({"keep_steps": 0}, "keep_steps"),
        ({"share": 0.9, "cuts": []}, "share: 0.9 of attention is held at cuts, and there are none"),
        ({"share": 0.9, "signals": ["key_norms"]}, "share: is of scores, which ranker fastv, at layer 2, does not"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tiny_bundle: Path, tmp_path: Path, plan: dict[str, Any], said: str
) -> None:
    changed = shutil.copytree(tiny_bundle, tmp_path / "changed.fastv")
    manifest = json.loads((changed / "bundle.json").read_text(encoding="utf-8"))
    if "signals" in plan:
        manifest["plan"]["cuts"][0]["signals"] = plan.pop("signals")
    manifest["plan"] |= plan
    (changed / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_manifest(changed)


def test_fastv_run_says_what_was_asked(two_cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "a.png"
    noise_image(3).save(image)
    asked = [str(two_cuts), "--image", str(image), "--prompt", QUESTION, "--max-new-tokens", "2", "--json"]
    run_main([*asked, "--keep", "auto"])
    run_main([*asked, "--share", "0.3"])
    run_main([*asked, "--keep", "0.1"])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["share"] for each in printed] == [0.6, 0.3, None]
    assert "at most: as few as hold 0.6 of attention, in steps of 1/16" in plan_of(read_manifest(two_cuts).plan)


def test_a_benchmark_measures_auto_beside_numbers(two_cuts: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(two_cuts)
    check_settings([bundle.manifest.plan], ["auto", 0.25], None, 0.4)
    common = BackendChoice(path="", name="", threads=1)
    made = entrants_of({"a": bundle}, ["auto", 0.25], common, 0.4)
    assert [(choice.name, choice.keep, choice.share) for choice, _ in made] == [
        ("a keep auto", "auto", 0.4),
        ("a keep 0.25", 0.25, None),
    ]
    plans = [choice.plan(bundle.manifest) for choice, _ in made]
    assert [(plan.share, plan.keep) for plan in plans] == [(0.4, 0.3), (None, 0.25)]
    image = tmp_path / "a.png"
    noise_image(3).save(image)
    runner = BundleRunner.load(made[0][0], bundle)
    turn = runner.run(Request(images=(str(image),), prompt=QUESTION, new_tokens=2))
    answer = Pipeline.load(two_cuts, threads=1).generate([image], QUESTION, share=0.4, max_new_tokens=2)
    assert turn.pruned_lengths == tuple(cut.pruned_length for cut in answer.cuts)
    assert "as few as hold 0.4 of attention" in runner.settings["plan"]
    runner.close()
    with pytest.raises(UserError, match=r"`share` 0\.4: is of `keep` auto: add it, or leave `share` out"):
        check_settings([bundle.manifest.plan], [0.25], None, 0.4)
    with pytest.raises(UserError, match="`keep` auto: given twice"):
        check_settings([bundle.manifest.plan], ["auto", "auto"], None)
