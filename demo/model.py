"""The demonstration model: an ordinary LLaVA, small, initialised so that attention can look things up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from demo.scenes import CANVAS, PATCH, SIDE

VISUAL = SIDE * SIDE  # visual tokens of a picture
WIDTH = 128


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """A `LlavaForConditionalGeneration` with 144 visual tokens and 6 decoder layers, fp32, ready to train."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=CANVAS,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        initializer_range=WIDTH**-0.5,
        tie_word_embeddings=False,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=VISUAL,
        tie_word_embeddings=False,
        **ids,
    )
    torch.manual_seed(seed)
    model: LlavaForConditionalGeneration = LlavaForConditionalGeneration(config).float()
    # Written-out attention trains faster than the fused kernel at this size, on a CPU.
    model.model.vision_tower.set_attn_implementation("eager")
    model.generation_config = GenerationConfig(**ids, do_sample=False, max_new_tokens=32)
    _start_as_lookup(model)
    return model


@torch.no_grad()
def _start_as_lookup(model: LlavaForConditionalGeneration) -> None:
    """Attention matches like with like, copies what it finds (mimetic initialisation, arXiv 2305.09828)."""
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(0.7 * attention.v_proj.weight.T)
        layer.mlp.down_proj.weight.mul_(0.3)
    tower = model.model.vision_tower
    tower.embeddings.position_embedding.weight[1:] = 0.3 * _grid_positions()
    for layer in tower.encoder.layers:
        nn.init.normal_(layer.self_attn.q_proj.weight, std=0.07)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    # Visual tokens start about as long as word embeddings.
    model.model.multi_modal_projector.linear_2.weight.mul_(0.15)
    # A copied word embedding is its own best logit.
    model.lm_head.weight.copy_(model.get_input_embeddings().weight)


def _grid_positions() -> Tensor:
    """Sines and cosines of row and column [144, D]: patches that are near in the picture start out alike."""
    waves = 0.5 * 2.0 ** (-torch.arange(WIDTH // 4) / 8) * torch.pi
    angles = torch.arange(SIDE)[:, None] * waves
    axis = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [12, D/2]
    return torch.cat([axis[:, None].expand(-1, SIDE, -1), axis[None].expand(SIDE, -1, -1)], dim=-1).reshape(
        VISUAL, WIDTH
    )


def image_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Projected visual tokens [B, 144, D] of normalised pixels [B, 3, 168, 168]."""
    hidden = model.model.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    features: Tensor = model.model.multi_modal_projector(hidden[model.config.vision_feature_layer][:, 1:])
    return features


@dataclass(frozen=True)
class Look:
    """Attention of one layer from text rows to the visual tokens: probabilities [B, H, Q, T, 144], fp32."""

    probabilities: Tensor


def read_questions(
    model: LlavaForConditionalGeneration,
    prefix: Tensor,
    text: Tensor,
    first_visual: int,
) -> tuple[Tensor, list[Look]]:
    """Run the decoder over many questions on one picture; each sees the picture and itself only.

    prefix [B, P, D] is the beginning of the prompt with its visual tokens at `first_visual`; text
    [B, Q, T, D] the questions with their answers. Every question sits at positions P..P+T-1, so its rows are
    what the stock forward gives for the question alone. Returns the normalised last states [B, Q, T, D] and
    each layer's look at the picture.
    """
    decoder = model.model.language_model
    (b, p, d), (_, q, t, _) = prefix.shape, text.shape
    positions = torch.cat([torch.arange(p), torch.arange(p, p + t).repeat(q)])[None]
    hidden = torch.cat([prefix, text.flatten(1, 2)], dim=1)
    cos, sin = decoder.rotary_emb(hidden, positions)
    window = slice(first_visual, first_visual + VISUAL)
    causal, causal_prefix = (torch.full((n, n), float("-inf")).triu(1) for n in (t, p))
    looks: list[Look] = []
    for layer in decoder.layers:
        attention = layer.self_attn
        x = layer.input_layernorm(hidden)
        heads = (b, p + q * t, -1, attention.head_dim)
        query, key, value = (
            proj(x).view(heads).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, cos.to(query.dtype), sin.to(query.dtype))
        query = query * attention.scaling
        among = query[:, :, :p] @ key[:, :, :p].transpose(-1, -2) + causal_prefix
        out_prefix = among.float().softmax(dim=-1).to(value.dtype) @ value[:, :, :p]
        ask, key_prefix, value_prefix = query[:, :, p:], key[:, :, :p], value[:, :, :p]
        own = (b, -1, q, t, attention.head_dim)
        key_own, value_own = key[:, :, p:].view(own), value[:, :, p:].view(own)
        to_prefix = (ask @ key_prefix.transpose(-1, -2)).view(b, -1, q, t, p)
        to_own = ask.view(own) @ key_own.transpose(-1, -2) + causal
        weights = torch.cat([to_prefix, to_own], dim=-1).float().softmax(dim=-1)
        looks.append(Look(weights[..., window]))
        weights = weights.to(value.dtype)
        out = weights[..., :p].flatten(2, 3) @ value_prefix + (weights[..., p:] @ value_own).flatten(2, 3)
        out = torch.cat([out_prefix, out], dim=2).transpose(1, 2).reshape(b, p + q * t, d)
        hidden = hidden + attention.o_proj(out)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return decoder.norm(hidden[:, p:]).view(b, q, t, d), looks
