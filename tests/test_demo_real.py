"""The real decoder's parts on a tiny Llama: what is put together, how questions are packed, what a split holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from demo.questions import Question
from demo.real import heldout
from demo.real.asking import GROUPS, KINDS, ask, rephrase
from demo.real.assembling import assemble, build_processor
from demo.real.beginning import word_means
from demo.real.language import IMAGE
from demo.real.lowrank import attach, merge
from demo.real.packing import IGNORED, Packer, states
from demo.real.split import write_split
from demo.real.stored import WEIGHTS, restore, write_weights
from demo.real.train import Trained
from demo.scenes import CANVAS, PATCH, draw_scene
from fastv_calib.samples.data import read_data

HERE = Path(__file__).parent.parent / "demo" / "real"
LIMIT = 24_000_000
QUESTIONS = [
    Question("color", "What color is the star?", "red", ()),
    Question("where", "Where is the blue ring?", "top left", ()),
    Question("count", "How many objects are there?", "3", ()),
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte by byte, with the tokens that the chat template writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {letter: index for index, letter in enumerate(alphabet)}
    bare = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={"image_token": IMAGE},
    )


@pytest.fixture
def language(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tower() -> CLIPVisionModel:
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=CANVAS,
        patch_size=PATCH,
    )
    return CLIPVisionModel(config).eval()


@pytest.fixture
def changed(
    language: LlamaForCausalLM, tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast
) -> tuple[LlavaForConditionalGeneration, Trained]:
    """A model as training has it, its factors as if trained."""
    model = assemble(language, tower, tokenizer)
    trained = Trained(model.model.multi_modal_projector, attach(model.model.language_model, rank=4))
    with torch.no_grad():
        for tensor in trained.factors.parameters():
            tensor.copy_(0.1 * torch.randn_like(tensor))
    return model, trained


def test_an_assembled_layer_is_the_base_and_the_change(
    tmp_path: Path,
    language: LlamaForCausalLM,
    tower: CLIPVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    changed: tuple[LlavaForConditionalGeneration, Trained],
) -> None:
    model, trained = changed
    write_weights(tmp_path, tower, trained.state())
    restored = restore(tmp_path, language, tokenizer)
    for name, module in restored.model.language_model.named_modules():
        if isinstance(module, nn.Linear):
            base = language.model.get_submodule(name).weight
            pair = model.model.language_model.get_submodule(name).factors
            change = pair.up.bfloat16().double() @ pair.down.bfloat16().double()
            torch.testing.assert_close(module.weight.double(), base.double() + change, atol=1e-6, rtol=1e-6)
            assert change.abs().max() > 0.01
    torch.testing.assert_close(restored.lm_head.weight, language.lm_head.weight)
    # What was trained answers the same once it is stored and put together.
    inputs = _inputs(build_processor(tokenizer), QUESTIONS[0].text)
    with torch.no_grad():
        torch.testing.assert_close(restored(**inputs).logits, model(**inputs).logits, atol=0.1, rtol=0.05)


def test_a_checkpoint_is_one_that_transformers_loads(
    tmp_path: Path, language: LlamaForCausalLM, tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = assemble(language, tower, tokenizer)
    model.save_pretrained(tmp_path)
    build_processor(tokenizer).save_pretrained(tmp_path)
    inputs = _inputs(AutoProcessor.from_pretrained(tmp_path, backend="pil"), QUESTIONS[0].text)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_factors_for_other_layers_are_refused(language: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="other layers"):
        merge(
            language.model,
            {"layers.9.self_attn.q_proj.up": torch.zeros(1), "layers.9.self_attn.q_proj.down": torch.zeros(1)},
        )


def test_packed_questions_read_as_if_each_were_alone(
    tokenizer: PreTrainedTokenizerFast, changed: tuple[LlavaForConditionalGeneration, Trained]
) -> None:
    model, _ = changed
    processor = build_processor(tokenizer)
    packer = Packer(tokenizer)
    packed = packer.pack(QUESTIONS)
    pixels = _inputs(processor, "x")["pixel_values"]
    with torch.no_grad():
        visual = model.model.get_image_features(pixels).pooler_output[0]
        hidden = states(model.model.language_model, packed, visual, packer.image)
    for owner, question in enumerate(QUESTIONS):
        inputs = _inputs(processor, question.text, question.answer)
        with torch.no_grad():
            alone = model.model(**inputs).last_hidden_state[0]
        own = hidden[packed.owners == owner]
        torch.testing.assert_close(own, alone[len(packer.prefix) :], atol=1e-4, rtol=1e-4)
        asked = packed.targets[(packed.owners == owner) & (packed.targets != IGNORED)]
        assert tokenizer.decode(asked) == f"{question.answer}<|im_end|>"


def test_a_visual_token_begins_as_the_words_for_its_patch(tokenizer: PreTrainedTokenizerFast) -> None:
    words = {" ": 0, ".": 1, " red": 2, " star": 3, " top": 4, " left": 5, " object": 6}

    class Words:
        def encode(self, text: str) -> list[int]:
            return [words.get(text, 7)]

    labels = np.array([[[1, 0]], [[0, -1]], [[3, -1]], [[-1, -1]], [[0, 0]], [[0, 0]], [[0, -1]]], np.int8)
    table = torch.eye(8)
    object_, background = word_means(torch.from_numpy(labels.transpose(1, 0, 2)), table, Words())[0]  # type: ignore[arg-type]
    torch.testing.assert_close(object_, torch.tensor([0, 0, 0.5, 0.5, 0.25, 0.25, 0.2, 0]))
    torch.testing.assert_close(background, torch.tensor([0, 1, 0, 0, 0.25, 0.25, 0, 0]))


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("What is the color of the star?", "star"),
        ("What is the shape of the red object?", "red"),
        ("Which number is red?", "red"),
        ("In which part of the picture is the red star?", "red star"),
        ("What do you see at the top left?", "top left"),
        ("How many objects are red?", "red"),
        ("How many stars do you see?", "stars"),
        ("Do you see a red star?", "a red star"),
        ("Tell me about the red object.", "red object"),
    ],
)
def test_other_words_ask_the_same(text: str, noun: str) -> None:
    said = {rephrase(np.random.default_rng(seed), text) for seed in range(20)}
    assert len(said) >= 2 and text not in said
    assert all(noun in other and "{" not in other for other in said)


def test_every_kind_has_a_group_and_digits_are_where_the_answer_says() -> None:
    assert set(GROUPS) == set(KINDS)
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        scene = draw_scene(rng, numbers=0.5)
        question = ask(rng, scene, "find")
        if question is None:
            continue
        (thing,) = [t for t in scene.things if t.digit is not None and str(t.digit) in question.text]
        row, column = ("top", "middle", "bottom")[thing.region[0]], ("left", "center", "right")[thing.region[1]]
        assert question.answer == ("center" if thing.region == (1, 1) else f"{row} {column}")
        found += 1
    assert found > 20


def test_a_split_is_read_by_calibration(tmp_path: Path) -> None:
    data = write_split(tmp_path / "a", 20, heldout.CALIBRATION_SEED)
    samples = read_data(data, None)
    expected = heldout.samples(20, heldout.CALIBRATION_SEED)
    assert [(s.prompt, s.answer, s.kind) for s in samples] == [(e.question, e.answer, GROUPS[e.kind]) for e in expected]
    assert {s.kind for s in samples} == {"attributes", "OCR-like", "counting", "localisation"}
    other = {s.key for s in read_data(write_split(tmp_path / "b", 20, heldout.SEED), None)}
    assert not other & {s.key for s in samples}


def test_what_is_committed_is_small() -> None:
    assert sum(path.stat().st_size for path in HERE.iterdir() if path.is_file()) <= LIMIT
    assert (HERE / WEIGHTS).is_file()


def _inputs(processor: object, question: str, answer: str = "") -> dict[str, torch.Tensor]:
    """What the processor makes of a held-out picture and a question, with all but the end of an answer."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)  # type: ignore[attr-defined]
    (sample,) = heldout.samples(1)
    inputs: dict[str, torch.Tensor] = processor(images=[sample.image], text=[prompt + answer], return_tensors="pt")  # type: ignore[operator]
    return inputs
