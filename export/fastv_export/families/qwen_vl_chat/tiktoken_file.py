"""A vocabulary in tiktoken's file format as a tokenizer of the `tokenizers` library."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.normalizers import NFC

from fastv_export.hf import models as hf_models
from fastv_runtime.errors import UserError


def tokenizer_from_tiktoken(file: Path, pattern: str) -> Tokenizer:
    """The tokenizer of a file of byte sequences and their ranks, without special tokens; text is put in NFC first.

    pattern: regular expression of the pieces that text is cut into. Raises UserError for a damaged file.
    """
    tokenizer = hf_models.byte_pair_tokenizer(read_ranks(file), pattern)
    tokenizer.normalizer = NFC()
    return tokenizer


def read_ranks(file: Path) -> dict[bytes, int]:
    """Rank of each byte sequence: one per line, in base64, a space, the rank. Ranks count from 0 without gaps."""
    if not file.is_file():
        raise UserError(f"{file}: no such file: download it with the checkpoint, it is the tokenizer's vocabulary")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise UserError(f"{file}: line {number} is no token and rank: download it again") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError(f"{file}: ranks are missing: download it again")
    return ranks
