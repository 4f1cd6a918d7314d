from __future__ import annotations

from pathlib import Path

import torch
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, LlavaProcessor, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.families.row import Row
from tests.timm_alone import import_timm
from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

IMAGE_SIZE = 256
STRIDE = 64


def write_tiny_fast_vlm(path: Path) -> None:
    """The published tower's architecture at a few channels and one or two blocks a stage; 16 visual tokens."""
    import_timm()
    from transformers import TimmWrapperConfig

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vision = TimmWrapperConfig(
        architecture="fastvit_mci3",
        hidden_size=128,
        model_args={"inference_mode": True, "embed_dims": [8, 16, 16, 32, 64], "layers": [1, 2, 1, 1, 2]},
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // STRIDE) ** 2,
    )
    model = FastVlmForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", "bn.weight")):
                parameter.uniform_(0.5, 1.5)
            elif "vision_tower" in name or "projector" in name:
                # timm starts layer scales at 1e-5: what they scale would go unnoticed.
                parameter.normal_(0, 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    model.save_pretrained(path)
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[0.0, 0.0, 0.0],
            image_std=[1.0, 1.0, 1.0],
        ),
        tokenizer=tokenizer,
        patch_size=STRIDE,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)


ROWS = [Row("fast_vlm", write_tiny_fast_vlm, cases=(((300, 200),), ((90, 200), (256, 256))), options={"max_images": 2})]
