"""From token ids and pixels to tokens: what golden vectors of single graphs cannot see is found here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.streamed import stream_model
from fastv_export.execution.chunked import run_chunked
from fastv_export.exporting import export_bundle
from fastv_export.families import FAMILIES
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.verify import question as asked
from fastv_export.verify.end_to_end import EndToEnd
from fastv_export.verify.question import ask
from fastv_export.verify.whole import VerificationError
from fastv_runtime import Pipeline
from fastv_runtime.config.bundle import EMBEDDING, END_TO_END, PROCESSOR, read_manifest
from fastv_runtime.generation.prompts.prompt import Prompt
from fastv_runtime.preprocessing import Visual
from tests.conftest import MakeBundle
from tests.tiny import write_tiny_llava


def exceeding(folder: Path, checkpoint: Path) -> set[str]:
    """What differs by more than rounding explains between the bundle in `folder` and a checkpoint's stock model."""
    manifest = read_manifest(folder)
    family, plan, dimensions = FAMILIES[manifest.family], manifest.plan, manifest.decoder
    question = ask(folder / PROCESSOR, manifest.tokens, manifest.vision, dimensions, plan)
    chain = EndToEnd(question, family, manifest.graphs, folder, dimensions, plan, manifest.embedding_dtype)
    chain.encode(lambda count: None)
    for name, spec in manifest.graphs.items():
        if runs := chain.runs(name):
            run_chunked(folder / spec.file, runs)
    stock = stream_model(Checkpoint(checkpoint), family)
    return {each.output for each in chain.compare(stock) if not each.passed}


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llava(tmp_path_factory.mktemp("other") / "llava", seed=1)


def test_a_right_bundle_answers_as_the_stock_model(tiny_bundle: Path, tiny_llava: Path) -> None:
    verified = read_manifest(tiny_bundle).verified
    assert verified is not None and 0 < verified[END_TO_END] < 3e-4
    assert exceeding(tiny_bundle, tiny_llava) == set()


def test_the_question_is_what_the_runtime_makes_of_it(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    question = ask(tiny_bundle / PROCESSOR, manifest.tokens, manifest.vision, manifest.decoder, manifest.plan)
    image = Image.new("RGB", asked.SIZE[::-1])
    answer = Pipeline.load(tiny_bundle, threads=1).generate([image], asked.QUESTION, max_new_tokens=1)
    assert (question.length, question.pruned) == (answer.prompt_tokens, (answer.pruned_length,))


def test_a_table_that_is_not_the_models_is_found(tiny_bundle: Path, tiny_llava: Path, tmp_path: Path) -> None:
    """As it was with Gemma, whose embedding multiplies what it looks up."""
    folder = tmp_path / "scaled.fastv"
    shutil.copytree(tiny_bundle, folder)
    table = np.fromfile(folder / EMBEDDING, np.float32)
    (table * np.float32(8)).tofile(folder / EMBEDDING)
    assert {"prompt", "logits"} <= exceeding(folder, tiny_llava)


def test_features_in_other_places_are_found(
    tiny_bundle: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Prompt.starts

    def one_early(self: Prompt, visuals: list[Visual]) -> list[list[int]]:
        return [[place - 1 for place in places] for places in starts(self, visuals)]

    monkeypatch.setattr(Prompt, "starts", one_early)
    assert "prompt" in exceeding(tiny_bundle, tiny_llava)


def test_other_positions_are_found(tiny_bundle: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = asked.position_ids
    monkeypatch.setattr(asked, "position_ids", lambda *arguments: 2 * positions(*arguments))
    assert {"logits", "scores"} <= exceeding(tiny_bundle, tiny_llava)


def test_other_weights_are_found(tiny_bundle: Path, other_weights: Path) -> None:
    assert {"prompt", "scores", "logits", "tokens"} <= exceeding(tiny_bundle, other_weights)


def test_a_chain_that_differs_writes_no_bundle(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = asked.position_ids
    monkeypatch.setattr(asked, "position_ids", lambda *arguments: 2 * positions(*arguments))
    with pytest.raises(VerificationError, match=r"from image to tokens, the bundle differs .* logits by"):
        export_bundle(tiny_llava, tmp_path / "wrong.fastv", Options(prune=False, max_new_tokens=8), Progress(None))
    assert not list(tmp_path.iterdir())


def test_a_plan_without_room_for_a_question_says_so(make_bundle: MakeBundle, tiny_llava: Path) -> None:
    verified = read_manifest(make_bundle(tiny_llava, prune=False, max_text=4, max_new_tokens=8)).verified
    assert verified is not None and END_TO_END not in verified
