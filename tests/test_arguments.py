"""Arguments of the Python API: of another type, of another size, or beside what they have no meaning for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastv_calib import calibrate
from fastv_export import export
from fastv_export.api import _planned
from fastv_runtime import UserError
from fastv_runtime.arguments import checked


def refused(call: Callable[..., Any], name: str, value: Any, folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(
            *([folder / "missing"] if call is export else [folder / "missing", folder]),
            folder / "out",
            **options,
            **{name: value},
        )
    line = str(caught.value)
    assert line.startswith(f"`{name}` ") and "\n" not in line and len(line) < 300 and not list(folder.iterdir())
    return line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer", "2", "'2': must be a whole number or None"),
        ("layer", 2.5, "2.5: must be a whole number or None"),
        ("layer", True, "True: must be a whole number or None"),
        ("max_images", 1.5, "1.5: must be a whole number"),
        ("max_images", None, "None: must be a whole number"),
        ("max_new_tokens", "256", "must be a whole number"),
        ("keep", "half", "'half': must be a number or 'auto' or None"),
        ("keep", True, "must be a number or 'auto' or None"),
        ("keep", [0.5], "must be a number or 'auto' or None"),
        ("ranker", 3, "must be text or None"),
        ("target", None, "must be text"),
        ("target", ["ort"], "must be text"),
        ("int8_parts", "vision", "'vision': must be a list of 'vision' or "),
        ("int8_parts", [5], "must be a list of "),
        ("calibration", 5, "must be text or a path or None"),
        ("prune", "no", "must be True or False"),
        ("verify", 1, "must be True or False"),
        ("length", 5, "must be 'fixed' or 'exact' or None"),
        ("progress", "bar", "must be a Progress or None"),
        ("revision", b"main", "must be text or None"),
        ("block", 32.0, "must be a whole number or None"),
        ("max_text", "x" * 1000, "..."),
        ("cuts", "2:0.5", "must be a list of (a whole number, a number) or (a whole number, a number, text) or None"),
        ("cuts", [(2,)], "must be a list of (a whole number, a number) or "),
        ("cuts", [(2, 0.5, None)], "must be a list of (a whole number, a number) or "),
        ("cuts", [], "give one or more, or leave it out"),
    ],
)
def test_exports_arguments_have_types(name: str, value: Any, words: str, tmp_path: Path) -> None:
    assert words in refused(export, name, value, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layers", "12", "'12': must be a list of whole numbers"),
        ("layers", [1, "2"], "must be a list of whole numbers"),
        ("layers", 2, "must be a list of whole numbers"),
        ("layers", [True], "must be a list of whole numbers"),
        ("keeps", "0.5", "must be a list of numbers"),
        ("rankers", "fastv", "'fastv': must be a list of texts"),
        ("precisions", "int8", "must be a list of texts"),
        ("bundles", "a.fastv", "must be a list of texts or paths"),
        ("threads", "a", "'a': must be a whole number or None"),
        ("threads", 1.0, "must be a whole number or None"),
        ("min_agreement", "high", "must be a number"),
        ("prompt", 5, "must be text or None"),
    ],
)
def test_calibrates_arguments_have_types(name: str, value: Any, words: str, tmp_path: Path) -> None:
    assert words in refused(calibrate, name, value, tmp_path)


def test_the_source_and_the_output_are_paths(tmp_path: Path) -> None:
    for source, output, name in ((None, tmp_path / "out", "source"), (tmp_path, 5, "output"), (b"a", "b", "source")):
        with pytest.raises(UserError, match=f"`{name}` .*must be text or a path"):
            export(source, output)  # type: ignore[arg-type]


def test_numbers_of_numpy_and_ranges_are_numbers() -> None:
    @checked
    def given(count: int, share: float | None, many: list[int] | tuple[int, ...] = ()) -> tuple[Any, ...]:
        return count, share, many

    for count, share, many in (
        (np.int64(3), np.float32(0.5), np.arange(2)),
        (3, 1, range(2)),
        (3, None, (np.int8(0), 1)),
    ):
        made = given(count, share, many)
        assert type(made[0]) is int and made[0] == 3 and made[1] == share and list(made[2]) == [0, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": math.nan}, "`keep` nan: must be above 0 and at most 1"),
        ({"keep": math.inf}, "`keep` inf: must be above 0 and at most 1"),
        ({"layer": 10**30}, "must be 1 to 4; this decoder has 5 layers"),
        ({"max_text": 0}, "`max_text` 0: must be 1 to 1,000,000"),
        ({"max_text": 10**9}, "`max_text` 1000000000: must be 1 to 1,000,000"),
        ({"max_new_tokens": 10**12}, "`max_new_tokens` 1000000000000: must be 1 to 1,000,000"),
        ({"max_images": 10**12}, "`max_images` 1000000000000: must be 1 to 1,000"),
        ({"max_visual": 10**30}, "must be 1 to 1,000,000"),
        (
            {"max_text": 10**6, "max_visual": 10**6, "max_new_tokens": 10**6},
            r"`max_text` 1000000, 1000000 visual tokens .* GiB and a mask of 5,587\.9 GiB",
        ),
        (
            {"max_visual": 143},
            "`max_visual` 143: an image of this model takes at least 144 visual tokens: give 144 or more",
        ),
        ({"max_visual": 287, "max_images": 2}, "`max_visual` 287: 2 images take at least 288"),
        ({"image_tokens": 64}, "`image_tokens` 64: every image becomes 144 visual tokens in this model: leave it out"),
        ({"image_tokens": 0}, "`image_tokens` 0: must be at least 1"),
        ({"prune": False, "keep": 0.5}, r"`keep` 0.5: an unpruned model \(`prune`\) has none: leave one of them out"),
        ({"prune": False, "layer": 2}, r"`layer` 2: an unpruned model \(`prune`\) has none"),
        ({"prune": False, "ranker": "dart"}, r"`ranker` dart: an unpruned model \(`prune`\) has none"),
        ({"prune": False, "length": "fixed"}, r"`length` fixed: an unpruned model \(`prune`\) has none"),
    ],
)
def test_sizes_and_options_that_no_bundle_can_have(
    options: dict[str, Any], words: str, tiny_llava: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        export(tiny_llava, tmp_path / "out.fastv", precision="fp32", **options)
    assert not list(tmp_path.iterdir())


def test_a_calibrations_plan_may_stay_unused() -> None:
    """The unpruned model with what a calibration saw of its layers, to compare with."""
    assert _planned(None, {"layer": None, "keep": None}, prune=False) == {"prune": False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 100_000}, "`threads` 100000: must be 1 to 1,024"),
        ({"threads": 0}, "`threads` 0: must be 1 to 1,024"),
        ({"workers": 10**9}, "`workers` 1000000000: must be 1 to 10,000"),
        ({"layers": []}, "`layers`: is empty: give one or more"),
        ({"keeps": []}, "`keeps`: is empty: give one or more"),
        ({"rankers": ()}, "`rankers`: is empty: give one or more"),
        ({"keeps": [math.nan]}, "`keeps` nan: must be above 0 and below 1"),
        ({"min_agreement": math.nan}, "`min_agreement` nan: must be above 0 and at most 1"),
        ({"max_memory": math.nan}, "`max_memory` nan: must be above 0"),
        ({"image_tokens": 64}, "`image_tokens` 64: every image becomes 144 visual tokens in this model"),
    ],
)
def test_numbers_that_no_calibration_can_have(
    options: dict[str, Any], words: str, tiny_llava: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=words):
        calibrate(tiny_llava, data, tmp_path / "out.json", prompt="What?", **options)
