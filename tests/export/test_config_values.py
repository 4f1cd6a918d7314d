"""Numbers of a config that nothing can be built of: one line with the file and the field, before anything is built.

What every family's checkpoints have is the witness that nothing else is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import build_without_weights
from fastv_export.config_values import check_values
from fastv_export.families import FAMILIES, Family, family_of
from fastv_export.hf import models as hf_models
from fastv_runtime import UserError
from tests.damaged import GONE, copied, edited, plan_of
from tests.families.conftest import checkpoint_of  # noqa: F401  a fixture
from tests.families.row import Row
from tests.families.rows import ROWS
from tests.tiny import write_tiny_llava

CASES: list[tuple[tuple[str, ...], Any, str]] = [
    (("text_config", "hidden_size"), 10**9, "text_config.hidden_size 1000000000: no tensor of the checkpoint has so"),
    (("text_config", "num_hidden_layers"), 10**6, "text_config.num_hidden_layers 1000000: the checkpoint has"),
    (("text_config", "vocab_size"), 10**12, "text_config.vocab_size 1000000000000: no tensor of the checkpoint has so"),
    (("text_config", "intermediate_size"), -1, "text_config.intermediate_size -1: must be a whole number, 1 or more"),
    (("text_config", "hidden_size"), "64", "text_config.hidden_size '64': must be a whole number, 1 or more"),
    (("text_config", "hidden_size"), 64.0, "text_config.hidden_size 64.0: must be a whole number, 1 or more"),
    (
        ("text_config", "num_hidden_layers"),
        True,
        "text_config.num_hidden_layers True: must be a whole number, 1 or more",
    ),
    (("text_config", "num_attention_heads"), 0, "text_config.num_attention_heads 0: must be a whole number, 1 or more"),
    (("text_config", "num_attention_heads"), 5, "hidden size (64) is not a multiple of the number of attention heads"),
    (("text_config", "num_key_value_heads"), 3, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    (("text_config", "head_dim"), 10**9, "text_config.head_dim 1000000000: no tensor of the checkpoint has so many"),
    (("text_config", "rms_norm_eps"), float("nan"), "text_config.rms_norm_eps is nan"),
    (("text_config", "rms_norm_eps"), "small", "'rms_norm_eps' expected float"),
    (("text_config", "rope_parameters", "rope_theta"), float("inf"), "text_config.rope_parameters.rope_theta is inf"),
    (("text_config",), [], "text_config []: must be an object"),
    (("vision_config",), 5, "vision_config 5: must be an object"),
    (("vision_config", "num_hidden_layers"), 10**6, "vision_config.num_hidden_layers 1000000: the checkpoint has"),
    (("vision_config", "patch_size"), 0, "vision_config.patch_size 0: must be a whole number, 1 or more"),
    (("vision_config", "patch_size"), 1000, "(rows is 0: must be at least 1; image_size 96, patch_size 1000)"),
    (("vision_config", "image_size"), 3, "(rows is 0: must be at least 1; image_size 3, patch_size 8)"),
    (("vision_config", "image_size"), 10**6, "vision_config.image_size 1000000: must be at most 8192 pixels"),
    (("image_token_id",), -1, "image_token_id -1: must be the id of a token, 0 to"),
    (("image_token_id",), 10**6, "image_token_id 1000000: must be the id of a token, 0 to"),
    (("image_token_id",), "3", "image_token_id '3': must be the id of a token"),
    (("model_type",), "mamba", "model type 'mamba' is not supported; known families:"),
    (("model_type",), GONE, "it names no model_type"),
]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    CASES,
    ids=[f"{path[-1]} {'gone' if value is GONE else value}"[:40] for path, value, _ in CASES],
)
def test_one_line_names_the_file_and_the_field(
    path: tuple[str, ...], value: Any, words: str, tiny_llava: Path, tmp_path: Path
) -> None:
    source = copied(tiny_llava, tmp_path / "source")
    edited(source / "config.json", path, value)
    with pytest.raises(UserError) as caught:
        plan_of(source)
    line = str(caught.value)
    assert line.startswith(f"{source}/config.json: ") and words in line and "\n" not in line


@pytest.mark.parametrize(("part", "value"), [("text_config", GONE), ("text_config", None), ("vision_config", None)])
def test_a_part_that_is_missing_has_transformers_defaults(
    part: str, value: Any, tiny_llava: Path, tmp_path: Path
) -> None:
    """Published configs leave out what is as usual; weights of another size tell that it was not."""
    source = copied(tiny_llava, tmp_path / "source")
    edited(source / "config.json", (part,), value)
    with pytest.raises(UserError, match=r"config\.json and weights do not belong together"):
        build_without_weights(Checkpoint(source), FAMILIES["llava"])


def test_sizes_of_tiles_are_bounded(checkpoint_of: Any, tmp_path: Path) -> None:  # noqa: F811
    row = next(row for row in ROWS if row.model_type == "llava_next")
    source = copied(checkpoint_of(row), tmp_path / "source")
    edited(source / "config.json", ("image_grid_pinpoints",), [[96, 10**9]])
    with pytest.raises(UserError, match=r"image_grid_pinpoints \[96, 1000000000\]: must be at most 65536 pixels each"):
        plan_of(source)


def test_a_decoder_of_one_layer_can_be_exported_unpruned_alone(tmp_path: Path) -> None:
    source = write_tiny_llava(tmp_path / "one", layers=1)
    with pytest.raises(UserError, match=r"`layer` 1: this decoder has one layer, and pruning takes two.*\(`prune`\)"):
        plan_of(source)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_families_have_is_not_refused(row: Row, checkpoint_of: Any) -> None:  # noqa: F811
    check_values(Checkpoint(checkpoint_of(row)))


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - {"qwen", "fast_vlm"}))
def test_transformers_own_defaults_are_not_refused(model_type: str, tmp_path: Path) -> None:
    """With weights that are large enough: those of published models are."""
    hf_models.model_class(model_type).config_class().save_pretrained(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.__dict__["tensors"] = {str(index): _Shape((10**6, 10**6)) for index in range(1000)}
    check_values(checkpoint)


class _Shape:
    """All that is asked of a tensor."""

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape


def test_every_family_says_how_it_sees(checkpoint_of: Any) -> None:  # noqa: F811
    """What `Family` itself leaves open never reaches a user."""
    for family in FAMILIES.values():
        assert type(family).vision is not Family.vision
    for row in ROWS:
        checkpoint = Checkpoint(checkpoint_of(row))
        family = family_of(row.model_type, "config.json")
        video = family.video(family.config(checkpoint))
        if video is not None and video.graph == "video":
            assert type(family).encode_frame is not Family.encode_frame
