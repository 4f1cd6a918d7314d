"""An ordinary LLaVA of a tower, a projector and a language model, with its processor."""

from __future__ import annotations

from transformers import (
    CLIPVisionModel,
    GenerationConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from demo.model import VISUAL
from demo.real.language import IMAGE, TEMPLATE
from demo.scenes import CANVAS, PATCH


def assemble(
    language: LlamaForCausalLM, tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """A `LlavaForConditionalGeneration`, fp32, of copies of the language model and tower; its projector is random."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=tokenizer.get_vocab()[IMAGE],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=VISUAL,
        tie_word_embeddings=language.config.tie_word_embeddings,
        **ids,
    )
    model: LlavaForConditionalGeneration = LlavaForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.generation_config = GenerationConfig(**ids, do_sample=False, max_new_tokens=32)
    model.eval()
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Pictures of 168 x 168 pixels, each 144 visual tokens ahead of the question."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": CANVAS},
            crop_size={"height": CANVAS, "width": CANVAS},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
