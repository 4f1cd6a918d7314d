"""Decoders whose layers look a limited number of tokens back (Mistral's sliding window)."""

from __future__ import annotations

import pytest
from transformers import LlavaNextConfig, MistralConfig

from fastv_export.families import FAMILIES
from fastv_export.plan import Options, check_positions, decoder_dimensions, make_plan
from fastv_runtime.errors import UserError


def test_a_window_shorter_than_the_longest_prompt_is_refused() -> None:
    family, options = FAMILIES["llava_next"], Options(max_text=100, max_new_tokens=50)
    longest = 576 + 48 * 49 + 100 + 50
    for window in (None, longest, longest - 1):
        config = LlavaNextConfig(text_config=MistralConfig(sliding_window=window))
        plan = make_plan(options, decoder_dimensions(config, family), family.vision(config, None), None)
        if window != longest - 1:
            check_positions(plan, family.max_positions(config))
        else:
            with pytest.raises(UserError, match=f"make {longest} positions and this model supports at most {window}"):
                check_positions(plan, family.max_positions(config))
