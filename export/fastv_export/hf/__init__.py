"""The seam to transformers' decoders: every name of theirs that is no public API, and nothing else, is in here.

What layers are called, which keywords they take, what hooks see and what an attention returns changes between releases.
Keywords are found in signatures, never by a version number; what is not found is one clear line. `hf/models.py` is the
same for whole models: building, loading, towers; `hf/probe.py` for what can only be found by running them.
"""

from fastv_export.hf.attention import BOUNDARIES, HARMLESS, Attend, Attention, register_attention
from fastv_export.hf.hooks import LayerInputs, after_attention, attention_weights, before_layer, before_mlp, hooked
from fastv_export.hf.parts import (
    DECODER_PARTS,
    LAYER_PARTS,
    attention_of,
    branches,
    branching,
    check_decoder,
    cosines_and_sines,
    embeddings_of,
    head_width,
    layer_number,
    layers_of,
    mlp_of,
    norm_after_attention,
    norm_of,
    projections,
    replaced,
    rotary_of,
    scaling,
    without_attention,
    without_mlp,
)
from fastv_export.hf.running import LayerCache, cache_in, cached, run_decoder, run_layer
from fastv_export.hf.signatures import CACHE, changed, keyword

__all__ = [
    "BOUNDARIES",
    "CACHE",
    "DECODER_PARTS",
    "HARMLESS",
    "LAYER_PARTS",
    "Attend",
    "Attention",
    "LayerCache",
    "LayerInputs",
    "after_attention",
    "attention_of",
    "attention_weights",
    "before_layer",
    "before_mlp",
    "branches",
    "branching",
    "cache_in",
    "cached",
    "changed",
    "check_decoder",
    "cosines_and_sines",
    "embeddings_of",
    "head_width",
    "hooked",
    "keyword",
    "layer_number",
    "layers_of",
    "mlp_of",
    "norm_after_attention",
    "norm_of",
    "projections",
    "register_attention",
    "replaced",
    "rotary_of",
    "run_decoder",
    "run_layer",
    "scaling",
    "without_attention",
    "without_mlp",
]
