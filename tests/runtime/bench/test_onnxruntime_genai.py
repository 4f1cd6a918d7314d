"""onnxruntime-genai's adapter: its log becomes stages, and what it cannot do under the contract a refusal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

# Benchmarks are scripts that import each other by name.
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

from peers import onnxruntime_genai as adapter
from peers.lines import Refused

from tests.conftest import noise_image

IMAGE = 90


class Library(ModuleType):
    """Stands in for the package: an image is four tokens, and the log is as the real one's."""

    log: Callable[[str], None] | None = None
    logging, quiet, stops_after, patches = False, False, 99, (4, 4)

    def __init__(self) -> None:
        super().__init__("onnxruntime_genai")
        self.overlays: list[Any] = []
        self.asked: dict[str, Any] = {}
        self.Config = lambda path: SimpleNamespace(overlay=lambda text: self.overlays.append(json.loads(text)))
        self.Model = lambda config: SimpleNamespace(create_multimodal_processor=lambda: self.process)
        self.Tokenizer = lambda model: SimpleNamespace(
            apply_chat_template=lambda messages, add_generation_prompt: json.loads(messages)[0]["content"]
        )
        self.Images = SimpleNamespace(open_bytes=lambda *files: files)
        self.GeneratorParams = lambda model: SimpleNamespace(set_search_options=lambda **said: self.asked.update(said))
        self.Generator = lambda model, asked: Generator(self)

    def process(self, text: str, images: tuple[bytes, ...] | None) -> dict[str, Any]:
        assert all(image.startswith(b"\x89PNG") for image in images or ())
        if len(images or ()) > 1:
            raise RuntimeError("the tower takes one image\nsomewhere in its source")
        ids = np.array([[1, 2, 3] + [IMAGE] * 4 * text.count("<|image_pad|>")])
        grid = np.array([[1, *self.patches]])
        return {"input_ids": array(ids), "image_grid_thw": array(grid)}

    def set_log_callback(self, log: Callable[[str], None] | None) -> None:
        self.log = log

    def set_log_options(self, enabled: bool, model_output_shapes: bool) -> None:
        self.logging = enabled and model_output_shapes


def array(values: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(as_numpy=lambda: values)


class Generator:
    def __init__(self, library: Library):
        self.library, self.made = library, 0

    def set_inputs(self, inputs: dict[str, Any]) -> None:
        assert self.library.logging and self.library.log is not None
        left_of_last_turn = "Name: logits"
        for line in (left_of_last_turn, "Name: image_features", "Name: inputs_embeds", "Name: inputs_embeds"):
            if not self.library.quiet:
                self.library.log(line)

    def is_done(self) -> bool:
        return self.made == min(4, self.library.stops_after)

    def generate_next_token(self) -> None:
        assert not self.library.logging and self.library.log is None
        self.made += 1

    def get_next_tokens(self) -> list[int]:
        return [1]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", library)
    monkeypatch.setattr(adapter, "version", lambda package: "1")
    return library


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    said = {"precision": "int4", "checkpoint": "0" * 64, "made with": "care"}
    (tmp_path / "fastv-peer.json").write_text(json.dumps(said))
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"image_token_id": IMAGE}}))
    noise_image(0).save(tmp_path / "image.jpg")
    return {"model": tmp_path, "precision": "int4", "threads": 3, "keep": 1.0, "option": []}


def test_a_turn_is_split_by_the_log(library: Library, asked: dict[str, Any]) -> None:
    peer = adapter.OnnxRuntimeGenAI(argparse.Namespace(**asked))
    assert peer.settings["threads"] == "3" and peer.settings["made with"] == "care"
    for graph in ("decoder", "vision", "embedding"):
        assert library.overlays[0]["model"][graph]["session_options"] == {"intra_op_num_threads": 3}
    turn = peer.run([str(asked["model"] / "image.jpg")], "What?", 4)
    assert library.asked == {"max_length": 11, "min_length": 11, "do_sample": False}, "past stop tokens, greedily"
    assert (turn.prompt_tokens, turn.visual_tokens, turn.pruned_length) == (7, 4, 7)
    assert set(turn.stages_ms) == {"preprocess", "vision", "suffix"}
    assert 0 < sum(turn.stages_ms.values()) <= turn.ttft_ms
    assert set(peer.run([], "What?", 4).stages_ms) == {"preprocess", "suffix"}


def test_what_breaks_the_contract_is_refused(library: Library, asked: dict[str, Any]) -> None:
    for wrong, why in (({"keep": 0.5}, "cannot prune"), ({"option": ["speed=high"]}, "known are none")):
        with pytest.raises(Refused, match=why):
            adapter.OnnxRuntimeGenAI(argparse.Namespace(**asked | wrong))
    peer, image = adapter.OnnxRuntimeGenAI(argparse.Namespace(**asked)), str(asked["model"] / "image.jpg")
    with pytest.raises(Refused, match=r"it says: the tower takes one image$"):
        peer.run([image, image], "What?", 4)
    library.patches = (2, 8)
    with pytest.raises(Refused, match="traced for a square image"):
        peer.run([image], "What?", 4)
    library.patches = (4, 4)
    library.stops_after = 2
    with pytest.raises(Refused, match="made 2 tokens where 4 were asked for"):
        peer.run([image], "What?", 4)
    library.stops_after, library.quiet = 99, True
    with pytest.raises(Refused, match="log does not say"):
        peer.run([image], "What?", 4)
