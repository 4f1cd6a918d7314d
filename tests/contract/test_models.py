"""What `fastv_export.hf.models`, and the runtime, rely on in the whole model of every family, its files and processors.

Where one of these fails after an update of transformers, hf_models.py is what has to learn the new name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastv_calib.samples.inputs import InputMaker
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import build_without_weights, stored_parameters
from fastv_export.checkpoint.ties import tie
from fastv_export.families import FAMILIES
from fastv_export.hf import models as hf_models
from tests.conftest import noise_image
from tests.contract.conftest import Subject
from tests.plain_qwen_vl import PlainQwenVL
from tests.tiny_qwen_vl import IMAGE_SIZE

QUESTION = "What color is the circle?"
TRANSFORMERS_4 = (
    ("lm_head.", "language_model.lm_head."),
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
"""Names of LLaVA's parameters, and those that checkpoints of transformers before 4.52 have."""


def test_a_model_without_weights_is_the_model_that_is_loaded(subject: Subject) -> None:
    """Buffers, such as rotary frequencies, are computed anew; every parameter is found in the checkpoint."""
    model, by_name = build_without_weights(subject.checkpoint, subject.family)
    assert all(parameter.is_meta for parameter in model.parameters())
    buffers = dict(subject.model.named_buffers())
    assert dict(model.named_buffers()).keys() == buffers.keys()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=0, atol=0)
    assert not tie(model, by_name)
    stored = stored_parameters(model, by_name, subject.checkpoint)
    loaded = dict(subject.model.named_parameters())
    assert dict(model.named_parameters()).keys() == loaded.keys()
    for name, parameter in model.named_parameters():
        values = torch.from_numpy(stored[id(parameter)].read().astype("float32"))
        torch.testing.assert_close(values, loaded[name].detach(), rtol=0, atol=0)


def test_stored_names_are_renamed_to_parameters(subject: Subject) -> None:
    if subject.row is None:
        return  # transformers knows no names of Qwen-VL-Chat; its own are in the test before
    names = subject.model.state_dict().keys()
    assert hf_models.renamed(subject.model, names) == {name: name for name in names}
    found = hf_models.renamed(subject.model, subject.checkpoint.tensors)
    assert set(found.values()) <= names
    assert {name for name, _ in subject.model.named_parameters()} <= set(found.values())  # a tied head is no other


def test_names_of_transformers_4_are_renamed(tiny_llava: Path, tmp_path: Path) -> None:
    model = FAMILIES["llava"].load(Checkpoint(tiny_llava))
    old = {}
    for name in model.state_dict():
        new, before = next(each for each in TRANSFORMERS_4 if name.startswith(each[0]))
        old[before + name.removeprefix(new)] = name
    assert hf_models.renamed(model, old) == old


def test_images_become_what_the_stock_model_makes_of_them(subject: Subject) -> None:
    """The prompt's embeddings, positions and deepstack: the runtime's tokenizer, chat template and image processor,
    and the family's own way through the tower, beside the model's."""
    if subject.row is None:
        made = InputMaker(subject.checkpoint, subject.family, subject.model)([noise_image(0)], QUESTION)
        pixels = torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
        features = subject.family.encode(subject.model, pixel_values=pixels[None])
        assert features.shape == made.embedded[0, made.visual].shape
        expected = PlainQwenVL(subject.checkpoint.path).features(pixels)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-3)
        return
    image_tokens = subject.row.options.get("image_tokens")
    images = [noise_image(index, size) for index, size in enumerate(subject.row.cases[1])]
    inputs = subject.row.inputs(subject.checkpoint.path, images, QUESTION)
    seen: dict[str, Any] = {}
    taken = subject.decoder.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    subject.model(**inputs)
    taken.remove()
    made = InputMaker(subject.checkpoint, subject.family, subject.model, image_tokens)(images, QUESTION)
    visual = inputs["input_ids"][0] == subject.family.image_token_id(subject.config)
    assert torch.equal(made.visual, visual)
    torch.testing.assert_close(made.embedded, seen["inputs_embeds"], rtol=1e-4, atol=1e-4)
    if subject.family.position_axes == 3:
        assert torch.equal(made.position_ids, seen["position_ids"][-3:])
    deepstack = seen.get("deepstack_visual_embeds") or []
    for own, stock in zip(made.deepstack, deepstack, strict=True):
        torch.testing.assert_close(own[0, visual], stock, rtol=1e-4, atol=1e-4)
        assert own[0, ~visual].abs().max() == 0


def test_last_logits_are_those_of_the_stock_forward(subject: Subject) -> None:
    """Every export asks one question so; pixels are named as the model names them."""
    if subject.row is None:
        return  # there is no stock forward
    image = noise_image(0, subject.row.cases[0][0])
    inputs = subject.row.inputs(subject.checkpoint.path, [image], QUESTION)
    expected = subject.model(**inputs).logits[0, -2:]
    image_tokens = subject.row.options.get("image_tokens")
    maker = InputMaker(subject.checkpoint, subject.family, subject.model, image_tokens)
    hf_models.attend(subject.model, "eager")
    ids = inputs["input_ids"]
    visual = ids == subject.family.image_token_id(subject.config)
    pixels = subject.family.pixels(maker.preparation.of_image(image), (image.height, image.width))
    logits = subject.family.last_logits(subject.model, ids, pixels, visual, 2)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
