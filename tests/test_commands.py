"""The commands as people type them, when all goes well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from fastv_export.cli import main as fastv_export
from fastv_runtime.cli.inspect import main as fastv_inspect
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.config.bundle import END_TO_END, read_manifest
from tests.conftest import DEMO, noise_image

TIMINGS = {"preprocess", "vision", "prefix", "select", "suffix", "ttft", "decode_per_token"}


def test_export_run_and_inspect_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, image, kept = (tmp_path / name for name in ("demo.fastv", "image.png", "kept.png"))
    plan = ["--target", "ort", "--layer", "2", "--keep", "0.25", "--max-new-tokens", "32"]
    fastv_export([str(DEMO), "-o", str(bundle), *plan, "--json"])
    captured = capsys.readouterr()
    manifest = json.loads(captured.out)
    assert [cut["keep"] for cut in manifest["plan"]["cuts"]] == [0.25]
    said = captured.err.splitlines()
    (line,) = [each for each in said if each.startswith(f"{bundle}: ")]
    assert "plan: K=2, keep 0.25, ranker fastv, exact length; int8 weights, int8 activations by row" in said
    room = "room: 128 text tokens, 144 visual tokens, 32 new tokens; the longest prompt, 272 tokens, is pruned to 164"
    assert room in said
    cost = manifest["quantization"]
    assert cost["asked"] == 1 + 32
    assert 0 < cost["kl"] < 0.05
    costs = f"{cost['same']} of 33 tokens as unquantized, KL {cost['kl']:.2g}"
    assert (
        "int8 weights, int8 activations by row; verified against transformers with weights as quantized, from " in line
    )
    assert line.endswith(f"; quantization itself costs: {costs}")
    assert max(manifest["verified"].values()) < 1e-4
    assert set(manifest["verified"]) == {"vision", "prefix", "select", "suffix", END_TO_END}

    noise_image(0).save(image)
    ask = [str(bundle), "--image", str(image), "--prompt", "What color is the circle?"]
    fastv_run([*ask, "--show-kept", str(kept)])
    streamed = capsys.readouterr()
    assert "36 of 144 visual tokens kept" in streamed.err
    with Image.open(kept) as drawn:
        assert drawn.size == (504, 504)

    fastv_run([*ask, "--json", "--length", "exact", "--keep", "0.125"])
    less = json.loads(capsys.readouterr().out)
    assert (less["keep"], len(less["kept_visual_tokens"])) == (0.125, 18)

    fastv_run([*ask, "--json", "--length", "fixed"])
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["text"].strip() == streamed.out.strip()
    assert answer["backend"] == "ort cpu"
    assert answer["pruned_length"] == 128 + 36 or answer["notes"]
    assert set(answer["timings_ms"]) == TIMINGS
    assert {"token_ids", "prompt_tokens", "visual_tokens", "kept_visual_tokens", "finish_reason"} <= set(answer)

    fastv_inspect([str(bundle), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["precision"] == "int8 weights, int8 activations by row"
    assert facts["quantization"] == cost
    assert facts["cost"]["tokens"] == 128 + 144
    assert facts["cost"]["pruned_lengths"] == [128 + 36]
    assert facts["memory"]["graphs"] == sum(graph["bytes"] for graph in facts["graphs"].values())
    plans = [[(cut["layer"], cut["keep"]) for cut in plan["cuts"]] for plan in facts["other_plans"]]
    assert all(cuts in plans for cuts in ([(1, 0.1)], [(3, 0.75)], [(5, 0.5)], [(1, 0.5), (3, 0.25)]))
    keeps = {(each["length"], each["text"]): each for each in facts["effective_keep"]}
    assert {text for _, text in keeps} == {8, 20, 32, 50, 64, 100, 128}
    for (length, text), each in keeps.items():
        room = {"exact": text, "fixed": 32 * -(-text // 32)}[length]
        assert (each["visual"], each["kept"], each["pruned_length"]) == (144, 36 + room - text, 36 + room)
        assert each["keep"] == pytest.approx(each["kept"] / 144)
    fastv_inspect([str(bundle)])
    table = capsys.readouterr().out
    assert "K=2, keep 0.25" in table
    assert "computes with: int8 weights, int8 activations by row" in table
    assert f"what quantization costs: {costs}" in table
    assert "suffix" in table
    assert re.search(r"144 +│ +20 +│ +36 +│ +0\.250 +│ +56 +│ +48 +│ +0\.333 +│ +68", table)


def test_several_images_after_one_flag_or_after_each(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / f"{index}.png") for index in range(2)]
    for index, file in enumerate(files):
        noise_image(index).save(file)
    answers = []
    for images in (["--image", *files], ["--image", files[0], "--image", files[1]]):
        fastv_run([str(tiny_bundle), *images, "--prompt", "Which?", "--json", "--max-new-tokens", "4"])
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["token_ids"] == answers[1]["token_ids"]
    assert answers[0]["visual_tokens"] == 288


def test_a_text_only_prompt_says_that_there_is_nothing_to_prune(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fastv_run([str(tiny_bundle), "--prompt", "What?", "--max-new-tokens", "3"])
    assert "nothing to prune" in capsys.readouterr().err


def test_sampling_repeats_with_its_seed(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(seed: str) -> str:
        fastv_run(
            [str(tiny_bundle), "--prompt", "What?", "--temperature", "2", "--top-k", "40", "--seed", seed, "--json"]
        )
        return json.loads(capsys.readouterr().out)["text"]

    assert ask("1") == ask("1")
    assert ask("1") != ask("2")


def test_unverified_bundles_say_so(tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fastv_export([str(tiny_llava), "-o", str(tmp_path / "out.fastv"), "--no-verify"])
    said = capsys.readouterr().err
    assert "not verified" in said
    assert "quantization itself costs: not measured" in said
    assert read_manifest(tmp_path / "out.fastv").verified is None
