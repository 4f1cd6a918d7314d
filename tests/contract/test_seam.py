"""What is no public API of transformers is named in the seam alone, so that an update of transformers ends there.

Identifiers, keywords, attributes, imports and words in strings are looked at; comments and docstrings are not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("export", "calib", "runtime")
SEAM = {
    *(str(path.relative_to(ROOT)) for path in (ROOT / "export" / "fastv_export" / "hf").glob("*.py")),
    "runtime/fastv_runtime/hf.py",
}

PRIVATE = {
    # of decoders
    *("attn_implementation", "cache_position", "embed_tokens", "input_layernorm", "inputs_embeds", "layer_idx"),
    *("lm_head", "past_key_value", "past_key_values", "position_embeddings", "post_attention_layernorm"),
    *("rotary_emb", "self_attn", "_attn_implementation", "AttentionInterface", "ALL_ATTENTION_FUNCTIONS"),
    *("attention_mask", "deepstack_visual_embeds", "output_attentions", "use_cache", "visual_pos_masks"),
    # of whole models
    *("_from_config", "_model_mapping", "conversion_mapping", "core_model_loading", "deepstack_features"),
    *("get_decoder", "get_image_features", "get_input_embeddings", "get_output_embeddings", "get_video_features"),
    *("image_newline", "initialize_weights", "multi_modal_projector", "pooler_output", "set_attn_implementation"),
    *("tie_weights", "vision_model", "vision_tower"),
    # of towers
    *("cu_seq_lens_k", "cu_seq_lens_q", "cu_seqlens", "cu_window_seqlens", "max_length_k", "max_length_q"),
    *("max_seqlen", "max_window_seqlen"),
}

ALLOWED = {
    "export/fastv_export/families/qwen_vl_chat/weights.py": {
        # Data: what tensors of the published files are called on one side, and in stock Qwen2 on the other.
        *("embed_tokens", "input_layernorm", "lm_head", "post_attention_layernorm", "self_attn"),
    },
    "runtime/fastv_runtime/config/manifest.py": {"embed_tokens"},  # the name of a bundle's file
}


def names(source: str) -> Iterator[tuple[int, str]]:
    """Every identifier, and every word of a string, of some source, with its line."""
    tree = ast.parse(source)
    docstrings = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield from ((line, part) for part in value.split("."))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from ((line, word) for word in re.findall(r"\w+", node.value))


def inside(source: str) -> Iterator[tuple[int, str]]:
    """Every module of transformers, other than the whole, that some source imports, with its line."""
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            modules = re.findall(r"^transformers\.\w+(?:\.\w+)*$", node.value)
        yield from ((node.lineno, module) for module in modules if module.startswith("transformers."))  # type: ignore[attr-defined]


def sources() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if path not in SEAM:
                yield path, file.read_text(encoding="utf-8")


def test_what_is_private_to_transformers_is_named_in_the_seam_alone() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, source in sources()
        for line, name in names(source)
        if name in PRIVATE - ALLOWED.get(path, set())
    ]
    assert not found, "\n".join(found)


def test_modules_inside_transformers_are_imported_in_the_seam_alone() -> None:
    found = [f"{path}:{line}: {module}" for path, source in sources() for line, module in inside(source)]
    assert not found, "\n".join(found)


def test_the_seam_has_them() -> None:
    """The list is no list of words that nobody uses."""
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in SEAM if (ROOT / path).is_file())
    assert {"self_attn", "past_key_values", "get_image_features", "cu_seqlens", "_model_mapping"} <= set(
        re.findall(r"\w+", text)
    )


@pytest.mark.parametrize(
    "line",
    [
        "layer.self_attn",
        "run(past_key_values=None)",
        "inputs['inputs_embeds']",
        "def forward(position_embeddings): ...",
        "getattr(model, 'model.rotary_emb')",
        "from transformers.core_model_loading import WeightRenaming",
        "import transformers.models.llama",
        "import_module('transformers.models.clip')",
    ],
)
def test_every_way_of_naming_is_seen(line: str) -> None:
    assert PRIVATE & {name for _, name in names(line)} or list(inside(line))


def test_comments_and_docstrings_may_name_them() -> None:
    assert not PRIVATE & {name for _, name in names('"""past_key_values"""\nx = 1  # self_attn')}
