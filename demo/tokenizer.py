"""The tokenizer and processor of the demonstration checkpoint.

A byte-level BPE learnt from the question corpus: each word of a question or answer is one token, and any
other text still has an encoding.
"""

from __future__ import annotations

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from demo.questions import KINDS, PLURALS, ask
from demo.scenes import CANVAS, COLORS, COLUMNS, NO_PICTURE, NUMBER, PATCH, ROWS, SHAPES, Scene, Thing

BOS, EOS, PAD, IMAGE = "<s>", "</s>", "<pad>", "<image>"

# LLaVA-1.5's conversation. Images come first within a turn, each followed by a line break.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}USER: {% elif message['role'] == 'assistant' -%}ASSISTANT: {% endif -%}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{- '<image>\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- ' ' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def build_tokenizer(seed: int = 0, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Learn the vocabulary from drawn questions; at most `vocab_size` entries, fewer when words run out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    # The chat template writes <s>; a post-processor that adds it would write it twice.
    special = (BOS, EOS, PAD, IMAGE)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA's processor over the tokenizer: 168 x 168 pictures, one <image> per visual token."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": CANVAS},
        crop_size={"height": CANVAS, "width": CANVAS},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def _imagined_scene(rng: np.random.Generator) -> Scene:
    """Objects without a picture, so that the vocabulary does not hang on how things are drawn."""
    things = []
    for _ in range(rng.integers(3, 7)):
        shape, color = rng.choice([*SHAPES, NUMBER]), rng.choice(list(COLORS))
        digit = int(rng.integers(10)) if shape == NUMBER else None
        region = (int(rng.integers(3)), int(rng.integers(3)))
        things.append(Thing(str(shape), str(color), digit, region, patches=(), anchor=0))
    return Scene(NO_PICTURE, tuple(things))


def _corpus(seed: int) -> list[str]:
    """Questions and answers as they stand in a prompt, many times each so that whole words merge."""
    rng = np.random.default_rng(seed)
    lines = []
    words = [*COLORS, *SHAPES, *PLURALS.values(), *ROWS, *COLUMNS, *map(str, range(10)), "objects"]
    for _ in range(400):
        scene = _imagined_scene(rng)
        for kind in KINDS:
            question = ask(rng, scene, kind)
            if question is not None:
                lines.append(f"USER: \n{question.text} ASSISTANT: {question.answer}")
    return lines + [f" {word}" for word in words for _ in range(20)] + ["USER: \n ASSISTANT:"] * 100
