"""What people write in place of what is meant does what they mean, or is one line that says what to write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastv_runtime import Pipeline, Sampling, UserError
from tests.conftest import noise_image

QUESTION = "What color is it?"
IMAGE, OTHER = noise_image(0), noise_image(1)


def tokens(pipeline: Pipeline, images: Any, **options: Any) -> list[int]:
    return pipeline.generate(images, QUESTION, max_new_tokens=6, ignore_stop=True, **options).token_ids


@pytest.fixture
def file(tmp_path: Path) -> Path:
    IMAGE.save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_an_image_is_a_path_bytes_an_array_or_itself_alone_or_in_a_list(tiny_pipeline: Pipeline, file: Path) -> None:
    expected = tokens(tiny_pipeline, [IMAGE])
    array = np.asarray(IMAGE)
    for given in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), array, IMAGE):
        for images in (given, [given], (given,), iter([given])):
            assert tokens(tiny_pipeline, images) == expected
    two = tokens(tiny_pipeline, [IMAGE, OTHER])
    assert tokens(tiny_pipeline, [str(file), np.asarray(OTHER)]) == two
    assert tokens(tiny_pipeline, np.stack([array, np.asarray(OTHER)])) == two, "a batch is several"
    assert tokens(tiny_pipeline, None) == tokens(tiny_pipeline, []) == tokens(tiny_pipeline, ())


def test_an_image_is_turned_as_its_camera_says(tiny_pipeline: Pipeline) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    IMAGE.save(data, "PNG", exif=exif)
    upright = tokens(tiny_pipeline, IMAGE.rotate(-90, expand=True))
    assert tokens(tiny_pipeline, data.getvalue()) == upright != tokens(tiny_pipeline, IMAGE)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 2.0, "seed": 3},
        {"temperature": 1.5, "top_k": 40, "top_p": 0.9},
        {"temperature": 2.0, "repetition_penalty": 5.0},
        {"temperature": np.float32(1.5), "top_k": np.int64(40)},
        {"temperature": 2, "seed": 1},
    ],
)
def test_sampling_may_be_said_by_keywords(tiny_pipeline: Pipeline, settings: dict[str, Any]) -> None:
    by_keywords = tokens(tiny_pipeline, IMAGE, **settings)
    assert by_keywords == tokens(tiny_pipeline, IMAGE, sampling=Sampling(**settings)) != tokens(tiny_pipeline, IMAGE)
    stream = tiny_pipeline.stream(IMAGE, QUESTION, max_new_tokens=6, ignore_stop=True, **settings)
    for _ in stream:
        pass
    assert stream.answer.token_ids == by_keywords


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "^there is no question: give `prompt`, or messages"),
    ({"prompt": ""}, "^the prompt is empty"),
    ({"prompt": b"What?"}, "^the prompt: a value of type bytes where text"),
    ({"prompt": ["What?"]}, "^the prompt: a value of type list where text"),
    ({"prompt": "\ud800"}, "^the prompt: not valid Unicode"),
    ({"system": ""}, "^`system` is empty"),
    ({"system": 3}, "^`system`: a value of type int where text"),
    ({"images": "image.png, other.png"}, "image.png, other.png: no such image"),
    ({"images": 3}, "^`images`: a value of type int where one or a list"),
    ({"images": {"image": IMAGE}}, "^`images`: a value of type dict where one or a list"),
    ({"images": [3]}, "int"),
    ({"images": [None]}, "None"),
    ({"images": [[IMAGE]]}, "list"),
    ({"images": b"not an image"}, "image"),
    ({"videos": 3}, "^`videos`: a value of type int"),
    ({"videos": [IMAGE]}, "^`videos`: a value of type Image where a path or sampled frames"),
    ({"videos": "clip.mp4"}, "llava models take no video"),
    ({"sampling": 0.7}, "^sampling: a value of type float where a Sampling"),
    ({"sampling": Sampling(), "temperature": 0.7}, "^`temperature`: give it in sampling, or all of it by keywords"),
    ({"temperature": "hot"}, "^`temperature` 'hot': must be"),
    ({"temperature": float("nan")}, "^`temperature` nan: must be 0 "),
    ({"temperature": float("inf")}, "^`temperature` inf: must be 0 "),
    ({"temperature": 1e-320}, "^`temperature` 1e-320: must be 0 .* 0.0001 to 10000"),
    ({"temperature": -1}, "^`temperature` -1"),
    ({"temperature": 1.0, "top_k": 2.5}, "^`top_k` 2.5: must be a whole number"),
    ({"temperature": 1.0, "top_k": True}, "^`top_k` True: must be a whole number"),
    ({"temperature": 1.0, "top_p": 0}, "^`top_p` 0: must be a number, above 0 and at most 1"),
    ({"temperature": 1.0, "top_p": [0.5]}, r"^`top_p` \[0.5\]"),
    ({"temperature": 1.0, "seed": "x"}, "^`seed` 'x': must be a whole number"),
    ({"top_k": 5}, "^`top_k` 5: changes nothing"),
    ({"top_p": 0.5}, "^`top_p` 0.5: changes nothing"),
    ({"repetition_penalty": 0}, "^`repetition_penalty` 0: must be"),
    ({"repetition_penalty": float("nan")}, "^`repetition_penalty` nan: must be"),
    ({"max_new_tokens": "ten"}, "^`max_new_tokens` 'ten': must be a whole number"),
    ({"max_new_tokens": 2.5}, "^`max_new_tokens` 2.5: must be a whole number"),
    ({"max_new_tokens": 10**30}, "supports 1 to 64"),
    ({"length": ["exact"]}, "'fixed' or 'exact'"),
]


WRONG += [
    ({"keep": "0.5"}, "^`keep` '0.5': must be a number above 0 and at most 1"),
    ({"keep": [0.5]}, r"^`keep` \[0.5\]: must be a number"),
    ({"keep": True}, "^`keep` True: must be a number"),
    ({"seed": 7}, "^`seed` 7: changes nothing"),
    ({"images": io.BytesIO(b"a\nb")}, "^`images`: an open file: give its path, or the bytes"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_cannot_be_used_is_one_line(tiny_pipeline: Pipeline, arguments: dict[str, Any], message: str) -> None:
    call = {"images": [IMAGE], "prompt": QUESTION, "max_new_tokens": 1} | arguments
    for ask in (tiny_pipeline.generate, tiny_pipeline.stream):
        with pytest.raises(UserError, match=message) as caught:
            ask(**call)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [["image.png"], ["What is it?"], "What is it?"])
def test_a_question_alone_is_no_image(tiny_pipeline: Pipeline, images: Any) -> None:
    with pytest.raises(UserError, match="there is no question: give `prompt`"):
        tiny_pipeline.generate(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check_hashes": "yes"}, "^`check_hashes` 'yes': must be True or False"),
        ({"public_key": 5}, "^`public_key`: a value of type int where a path or key is expected"),
        ({"public_key": ""}, "^`public_key` is empty"),
        ({"threads": 0}, "^`threads` 0: must be 1 to 1024"),
        ({"threads": -1}, "^`threads` -1: must be"),
        ({"threads": "two"}, "^`threads` 'two': must be a whole number"),
        ({"threads": 1.5}, "^`threads` 1.5: must be a whole number"),
        ({"threads": 10**12}, "^`threads` 1000000000000: must be 1 to 1024"),
        ({"aspect": "stretch"}, "^`aspect` 'stretch': must be 'crop' or 'pad'"),
        ({"backend": ["ort"]}, r"^`backend` \['ort'\]: must be one of ort, openvino, trt"),
        ({"backend": "cuda"}, "^`backend` cuda: must be one of ort, openvino, trt"),
        ({"device": 3}, "^`device` 3: backend ort runs on cpu or cuda"),
    ],
)
def test_what_no_pipeline_can_be_loaded_with(tiny_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Pipeline.load(tiny_bundle, **options)


@pytest.mark.parametrize("path", [None, 3, b"demo.fastv"])
def test_a_bundle_is_at_a_path(path: Any) -> None:
    with pytest.raises(UserError, match=r"^bundle: .* where a path is expected"):
        Pipeline.load(path)
