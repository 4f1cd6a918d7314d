"""What a request to Triton gives and gets: one table, from which the configuration is written and requests are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

IMAGE, STREAM = "IMAGE", "STREAM"


@dataclass(frozen=True)
class TritonTensor:
    """An input or an output, as config.pbtxt declares it; every input is optional."""

    name: str
    type: Literal["STRING", "BOOL", "INT32", "UINT64", "FP64"]
    """Triton's type without its TYPE_. Bytes and texts are STRING, which KServe calls BYTES."""
    keyword: str = ""
    """What an input is to `fastv_runtime.Pipeline.stream` and `Grammar`, and to their errors."""
    several: bool = False
    """Whether it has any number of values, and not one."""

    @property
    def is_text(self) -> bool:
        """Whether its bytes are text in UTF-8."""
        return self.type == "STRING" and self.name != IMAGE


INPUTS = (
    TritonTensor("PROMPT", "STRING", "prompt"),
    TritonTensor("SYSTEM", "STRING", "system"),
    TritonTensor("MESSAGES", "STRING", "messages"),
    TritonTensor(IMAGE, "STRING", "images", several=True),
    TritonTensor(STREAM, "BOOL"),
    TritonTensor("MAX_TOKENS", "INT32", "max_new_tokens"),
    TritonTensor("TEMPERATURE", "FP64", "temperature"),
    TritonTensor("TOP_K", "INT32", "top_k"),
    TritonTensor("TOP_P", "FP64", "top_p"),
    TritonTensor("SEED", "UINT64", "seed"),
    TritonTensor("REPETITION_PENALTY", "FP64", "repetition_penalty"),
    TritonTensor("KEEP", "FP64", "keep"),
    TritonTensor("SHARE", "FP64", "share"),
    TritonTensor("CUTS", "FP64", "cuts", several=True),
    TritonTensor("STOP", "STRING", "stop", several=True),
    TritonTensor("JSON_SCHEMA", "STRING", "json_schema"),
    TritonTensor("REGEX", "STRING", "regex"),
)
TEXT, FINISH_REASON, USAGE = "TEXT", "FINISH_REASON", "USAGE"
OUTPUTS = (TritonTensor(TEXT, "STRING"), TritonTensor(FINISH_REASON, "STRING"), TritonTensor(USAGE, "STRING"))

NAMES = {tensor.keyword: tensor.name for tensor in INPUTS if tensor.keyword}
"""Inputs by the names that errors have for them."""


def tensor_dims(tensor: TritonTensor) -> list[int]:
    return [-1] if tensor.several else [1]


def value_of(tensor: TritonTensor, array: Any) -> Any:
    """What an input holds: bytes of STRING, and numbers, in a list where there are several. array: numpy's, [N]."""
    values = array.reshape(-1).tolist()
    return values if tensor.several else values[0]
