"""What a user sees of a bundle with two cuts: answers, notes, the image of what was kept, its keep for one prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fastv_runtime import Pipeline
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.config.lengths import with_keep
from fastv_runtime.config.plan import Plan
from fastv_runtime.generation.clock import in_stages
from tests.conftest import noise_image

QUESTION = "What color is it?"


@pytest.fixture(scope="module")
def chain(tiny_chain: Path) -> Pipeline:
    return Pipeline.load(tiny_chain, threads=1)


@pytest.fixture
def ask(tiny_chain: Path, tmp_path: Path) -> list[str]:
    noise_image(0).save(tmp_path / "image.png")
    image = str(tmp_path / "image.png")
    return [str(tiny_chain), "--image", image, "--prompt", QUESTION, "--threads", "1", "--max-new-tokens", "3"]


@pytest.mark.parametrize(("keep", "kept"), [(None, [72, 29]), (0.1, [72, 14]), (0.4, [72, 58]), (0.6, [86, 86])])
def test_keep_is_what_the_last_cut_leaves(chain: Pipeline, keep: float | None, kept: list[int]) -> None:
    answer = chain.generate(noise_image(0), QUESTION, keep=keep, length="exact", max_new_tokens=2)
    text = answer.prompt_tokens - 144
    assert answer.keep == (0.2 if keep is None else keep) and answer.notes == []
    assert [(cut.layer, len(cut.kept_visual_tokens), cut.pruned_length) for cut in answer.cuts] == [
        (1, kept[0], text + kept[0]),
        (3, kept[1], text + kept[1]),
    ]
    first, last = (cut.kept_visual_tokens for cut in answer.cuts)
    assert set(last) <= set(first) <= set(range(144)) and last == sorted(last)
    assert (answer.kept_visual_tokens, answer.pruned_length) == (last, text + kept[1])


def test_notes_say_at_which_cut_more_was_kept(chain: Pipeline) -> None:
    answer = chain.generate(noise_image(0), QUESTION, length="fixed", max_new_tokens=1)
    room = -(answer.prompt_tokens - 144) % 32
    assert room and [note.split(":")[0:2] for note in answer.notes] == [
        [f"at layer {layer}", f" {kept + room} visual tokens kept, {room} more than keep {keep} asks for"]
        for layer, kept, keep in ((1, 72, 0.5), (3, 29, 0.2))
    ]
    assert chain.generate((), QUESTION, max_new_tokens=1).notes == ["nothing to prune: the prompt has no image"]


def test_timings_are_by_graph_and_fold_into_the_stages_of_a_benchmark(chain: Pipeline) -> None:
    timings = chain.generate(noise_image(0), QUESTION, max_new_tokens=1).timings_ms
    graphs = {"prefix", "select", "middle", "select_2", "suffix"}
    assert graphs <= set(timings)
    folded = in_stages(timings)
    assert set(folded) == {"preprocess", "vision", "prefix", "select", "suffix"}
    assert folded["select"] == pytest.approx(timings["select"] + timings["select_2"])
    assert folded["suffix"] == pytest.approx(timings["middle"] + timings["suffix"])


def test_the_command_prints_every_cut_and_draws_it(
    ask: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = tmp_path / "kept.png"
    fastv_run([*ask, "--json", "--keep", "0.1", "--length", "exact", "--show-kept", str(drawn)])
    answer = json.loads(capsys.readouterr().out)
    assert [(cut["layer"], len(cut["kept_visual_tokens"])) for cut in answer["cuts"]] == [(1, 72), (3, 14)]
    assert answer["kept_visual_tokens"] == answer["cuts"][1]["kept_visual_tokens"]
    with Image.open(drawn) as image:
        width, height = image.size
    assert width < height  # two square panels, one above the other
    fastv_run([*ask, "--keep", "0.1", "--length", "exact"])
    assert "14 of 144 visual tokens kept" in capsys.readouterr().err


def test_a_keep_without_room_says_how_large_it_can_be(ask: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failure:
        fastv_run([*ask, "--keep", "1", "--length", "exact"])
    assert failure.value.code == 2
    line = capsys.readouterr().err
    assert "--keep 1: the pruned prompt has" in line and "supports at most 157" in line
    most = line.split("it can be ")[1].split()[0]
    fastv_run([*ask, "--keep", most, "--length", "exact"])


def test_a_plan_with_another_keep_comes_back_from_json(chain: Pipeline) -> None:
    plan = chain.bundle.manifest.plan
    for keep in (0.1, 0.6):
        other = with_keep(plan, keep)
        assert other.keep == keep and other.cuts[0].keep == max(0.5, keep)
        assert Plan.model_validate_json(other.model_dump_json()) == other
