"""Tied parameters as transformers' from_pretrained ties them, whatever of them is stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.skeleton import Skeleton
from fastv_export.checkpoint.streamed import stream_model
from fastv_export.families import FAMILIES
from fastv_export.verify.reference import load_model

LLAVA = FAMILIES["llava"]
TABLE, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
STORED = {
    "both, other values": lambda table, head: {TABLE: table, HEAD: head},
    "both, the same": lambda table, head: {TABLE: table, HEAD: table.clone()},
    "both, the same in half precision": lambda table, head: {TABLE: table.bfloat16().float(), HEAD: table.bfloat16()},
    "the table alone": lambda table, head: {TABLE: table},
    "the head alone": lambda table, head: {HEAD: head},
}


@pytest.fixture(params=STORED)
def source(request: pytest.FixtureRequest, tiny_llava: Path, tmp_path: Path) -> Path:
    """A checkpoint whose config ties the head to the table."""
    path = Path(shutil.copytree(tiny_llava, tmp_path / "source"))
    model = load_model(tiny_llava, LLAVA)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = STORED[request.param](tensors.pop(TABLE), tensors.pop(HEAD))
    save_file(tensors | stored, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_head_is_tied_when_transformers_ties_it(source: Path) -> None:
    stock = load_model(source, LLAVA)
    tied = stock.lm_head.weight is stock.get_input_embeddings().weight
    checkpoint = Checkpoint(source)
    skeleton = Skeleton(checkpoint, LLAVA, attention="eager")
    assert (skeleton.model.lm_head.weight is LLAVA.decoder(skeleton.model).embed_tokens.weight) == tied
    assert skeleton.untied == ({} if tied else {HEAD: TABLE})
    for module, expected in (
        (skeleton.model.lm_head, stock.lm_head),
        (LLAVA.decoder(skeleton.model).embed_tokens, stock.get_input_embeddings()),
    ):
        np.testing.assert_array_equal(skeleton.weights(module)["weight"].numpy(), expected.weight.detach().numpy())


@torch.no_grad()
def test_the_streamed_model_computes_the_same_logits(source: Path) -> None:
    ids = torch.randint(200, (1, 9), generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        LLAVA.head(model)(LLAVA.decoder(model)(input_ids=ids).last_hidden_state)
        for model in (stream_model(Checkpoint(source), LLAVA), load_model(source, LLAVA))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
