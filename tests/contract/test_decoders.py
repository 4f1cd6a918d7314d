"""What `fastv_export.hf` relies on in the decoder of every family: in seconds, on any version of transformers.

Where one of these fails after an update of transformers, hf.py is what has to learn the new name.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastv_export import hf
from fastv_export.families import FAMILIES
from fastv_export.hf import models as hf_models
from fastv_runtime.errors import UserError
from tests.contract.conftest import LENGTH, ROWS_TO_LOAD, Subject, token_ids

EXACT = {"rtol": 0.0, "atol": 1e-6}
"""For the same operations in the same order."""


class Concatenated(hf.LayerCache):
    """The plainest cache: rows are appended."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def store(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if layer in self.layers:
            before = self.layers[layer]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        self.layers[layer] = key, value
        return key, value


def through_layers(
    subject: Subject, hidden: torch.Tensor, positions: torch.Tensor, cache: Concatenated, **kwargs: Any
) -> torch.Tensor:
    """All layers, one by one, and the norm, of rows that come after those in the cache."""
    filled = cache.layers[0][0].shape[2] if cache.layers else 0
    rotary = hf.rotary_of(subject.decoder)(hidden, positions)
    for layer in hf.layers_of(subject.decoder):
        hidden = hf.run_layer(layer, hidden, mask=causal(hidden.shape[1], filled), rotary=rotary, cache=cache, **kwargs)
    return hf.norm_of(subject.decoder)(hidden)


def causal(rows: int, filled: int = 0) -> torch.Tensor:
    hidden = torch.arange(filled + rows)[None] > filled + torch.arange(rows)[:, None]
    return torch.zeros(rows, filled + rows).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


def test_every_family_is_a_subject() -> None:
    assert {row.model_type for row in ROWS_TO_LOAD} | {"qwen"} == set(FAMILIES)


def test_decoders_have_the_parts_that_are_relied_on(subject: Subject) -> None:
    hf.check_decoder(subject.decoder)
    for number, layer in enumerate(hf.layers_of(subject.decoder)):
        attention = hf.attention_of(layer)
        assert hf.layer_number(attention) == number
        assert hf.projections(attention).keys() == {"q", "k"}
        assert hf.scaling(attention) == pytest.approx(hf.head_width(attention) ** -0.5)
    text = subject.config.get_text_config()
    assert len(hf.layers_of(subject.decoder)) == text.num_hidden_layers


def test_table_and_head_are_those_of_the_model(subject: Subject) -> None:
    ids = token_ids()
    torch.testing.assert_close(subject.embedded(), subject.causal.get_input_embeddings()(ids), **EXACT)
    hidden, _ = hf.run_decoder(subject.decoder, subject.embedded(), None)
    logits = subject.family.head(subject.model)(hidden)
    torch.testing.assert_close(logits, subject.causal(input_ids=ids).logits, **EXACT)


def test_layers_one_by_one_are_the_decoder(subject: Subject) -> None:
    embedded, positions = subject.embedded(LENGTH + 1), subject.positions(LENGTH + 1)
    whole = subject.decoder(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
    prompt, last = (embedded[:, :LENGTH], positions[..., :LENGTH]), (embedded[:, LENGTH:], positions[..., LENGTH:])
    ours = Concatenated()
    prefill, theirs = hf.run_decoder(subject.decoder, *prompt)
    torch.testing.assert_close(prefill, whole[:, :LENGTH], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(through_layers(subject, *prompt, ours), prefill, **EXACT)
    decoded, theirs = hf.run_decoder(subject.decoder, *last, cache=theirs)
    torch.testing.assert_close(decoded, whole[:, LENGTH:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(through_layers(subject, *last, ours), decoded, **EXACT)
    for layer, rows in ours.layers.items():
        for own, stock in zip(rows, hf.cached(theirs, layer), strict=True):
            torch.testing.assert_close(own, stock, **EXACT)


def test_positions_are_counted_where_none_are_given(subject: Subject) -> None:
    counted = torch.arange(LENGTH)[None]
    if subject.family.position_axes == 3:
        counted = counted.expand(3, 1, -1)
    given = hf.run_decoder(subject.decoder, subject.embedded(), counted)[0]
    torch.testing.assert_close(hf.run_decoder(subject.decoder, subject.embedded(), None)[0], given, **EXACT)
    other = hf.run_decoder(subject.decoder, subject.embedded(), subject.positions() * 2)[0]
    assert (other - given).abs().max() > 1e-2


def test_every_axis_of_a_position_counts(subject: Subject) -> None:
    axes = subject.family.position_axes
    before, _ = hf.run_decoder(subject.decoder, subject.embedded(), subject.positions())
    for axis in range(axes):
        moved = subject.positions()
        moved.view(axes, LENGTH)[axis, 2:] += 5
        after, _ = hf.run_decoder(subject.decoder, subject.embedded(), moved)
        assert (after - before).abs().max() > 1e-3


def test_two_halves_are_a_layer(subject: Subject) -> None:
    layer = hf.layers_of(subject.decoder)[1]
    hidden = subject.embedded()
    rotary = hf.rotary_of(subject.decoder)(hidden, subject.positions())
    whole = hf.run_layer(layer, hidden, mask=causal(LENGTH), rotary=rotary, cache=Concatenated())
    half = hf.run_layer(hf.without_mlp(layer), hidden, mask=causal(LENGTH), rotary=rotary, cache=Concatenated())
    untouched = Concatenated()
    both = hf.run_layer(hf.without_attention(layer), half, mask=causal(LENGTH), rotary=rotary, cache=untouched)
    torch.testing.assert_close(both, whole, **EXACT)
    assert not untouched.layers
    assert (half - whole).abs().max() > 1e-2 < (half - hidden).abs().max()


def test_a_registered_attention_gets_what_it_needs(subject: Subject) -> None:
    embedded, positions = subject.embedded(), subject.positions()
    eager, cache = hf.run_decoder(subject.decoder, embedded, positions)
    expected = _attentions(subject, embedded, positions)
    seen: list[hf.Attention] = []

    def attend(attention: hf.Attention) -> torch.Tensor:
        seen.append(attention)
        groups = attention.query.shape[1] // attention.key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (attention.key, attention.value))
        weights = (attention.query @ key.mT * attention.scaling + causal(LENGTH)).softmax(-1)
        torch.testing.assert_close(weights, expected[attention.layer], rtol=0, atol=1e-5)
        return (weights @ value).transpose(1, 2)

    hf.register_attention("io_spec", attend, known=frozenset({"token"}))
    hf_models.attend(subject.decoder, "io_spec")
    mixed, _ = hf.run_decoder(subject.decoder, embedded, positions)
    torch.testing.assert_close(mixed, eager, rtol=1e-4, atol=1e-4)
    assert [each.layer for each in seen] == list(range(len(expected)))
    for attention in seen:
        assert not attention.extra
        for own, stock in zip((attention.key, attention.value), hf.cached(cache, attention.layer), strict=True):
            torch.testing.assert_close(own, stock, rtol=0, atol=1e-5)
    # What is handed to a layer arrives; and what no attention here computes is not ignored.
    seen.clear()
    through_layers(subject, embedded, positions, Concatenated(), token="arrives")
    assert {each.extra["token"] for each in seen} == {"arrives"}
    with pytest.raises(UserError, match="hands its attention softcap"):
        through_layers(subject, embedded, positions, Concatenated(), softcap=30.0)


def test_hooks_see_the_weights_and_states_that_transformers_returns(subject: Subject) -> None:
    embedded, positions = subject.embedded(), subject.positions()
    layers = hf.layers_of(subject.decoder)
    weights: list[torch.Tensor] = []
    entered: list[torch.Tensor] = []
    attended: list[torch.Tensor] = []
    filled: list[int] = []

    def enter(inputs: hf.LayerInputs) -> None:
        entered.append(inputs.hidden)
        filled.append(inputs.cached_rows)
        assert inputs.mask is None or torch.equal(inputs.mask < -1, causal(inputs.hidden.shape[1], filled[-1]) < -1)

    handles = [hf.after_attention(layer, lambda _, each: weights.append(each)) for layer in layers]
    handles += [hf.before_layer(layer, enter) for layer in layers]
    handles += [hf.before_mlp(layer, attended.append) for layer in layers]
    with hf.hooked(*handles):
        _, cache = hf.run_decoder(subject.decoder, embedded, positions)
        prefill = len(layers)
        assert filled == [0] * prefill
        for layer, states, left in zip(layers[:-1], attended, entered[1:], strict=False):
            rest = states + layer.mlp(layer.post_attention_layernorm(states))
            torch.testing.assert_close(rest, left, **EXACT)
        hf.run_decoder(subject.decoder, subject.embedded(1), subject.positions(1) + LENGTH, cache=cache)
        assert filled[prefill:] == [LENGTH] * prefill
        assert {each.shape[-2:] for each in weights[prefill:]} == {(1, LENGTH + 1)}
    output = subject.decoder(inputs_embeds=embedded, position_ids=positions, output_hidden_states=True)
    for own, stock in zip(entered[:prefill], output.hidden_states[:-1], strict=True):
        torch.testing.assert_close(own, stock, **EXACT)
    for own, stock in zip(weights[:prefill], _attentions(subject, embedded, positions), strict=True):
        torch.testing.assert_close(own, stock, **EXACT)
    assert len(weights) == len(entered) == 2 * prefill, "hooks are gone"


def test_a_hook_can_mask_a_row(subject: Subject) -> None:
    mask = causal(LENGTH)
    mask[..., 4] = torch.finfo(torch.float32).min
    layer = hf.layers_of(subject.decoder)[1]
    with hf.hooked(hf.before_layer(layer, lambda inputs: inputs.masked_by(mask))):
        weights = _attentions(subject, subject.embedded(), subject.positions())
    assert weights[1][..., 5:, 4].max() == 0
    assert weights[0][..., 5:, 4].min() > 0


def test_weights_without_rotary_are_those_of_a_decoder_that_turns_nothing(subject: Subject) -> None:
    embedded, positions = subject.embedded(), subject.positions()
    still: list[torch.Tensor] = []
    first = hf.layers_of(subject.decoder)[0]  # later layers get other states where nothing is turned
    with hf.hooked(hf.after_attention(first, lambda inputs, _: still.append(inputs.weights_without_rotary()))):
        rotated = _attentions(subject, embedded, positions)[0]
    nothing = hf.rotary_of(subject.decoder).register_forward_hook(
        lambda *call: tuple(torch.full_like(table, value) for table, value in zip(call[-1], (1.0, 0.0), strict=True))
    )
    with hf.hooked(nothing):
        expected = _attentions(subject, embedded, positions)[0]
    torch.testing.assert_close(still[0], expected, **EXACT)
    assert (still[0] - rotated).abs().max() > 1e-2


def test_deepstack_is_added_after_the_first_layers(subject: Subject) -> None:
    count = subject.family.deepstack_layers(subject.config)
    assert (count > 0) == (subject.family.model_type == "qwen3_vl")
    visual = (torch.arange(LENGTH) > 2) & (torch.arange(LENGTH) < 9)
    embedded, positions = subject.embedded(), subject.positions()
    generator = torch.Generator().manual_seed(0)
    added = [torch.randn(int(visual.sum()), embedded.shape[-1], generator=generator) for _ in range(count)]
    stock, _ = hf.run_decoder(subject.decoder, embedded, positions, deepstack=added, visual=visual)
    hidden, cache = embedded, Concatenated()
    rotary = hf.rotary_of(subject.decoder)(hidden, positions)
    for number, layer in enumerate(hf.layers_of(subject.decoder)):
        hidden = hf.run_layer(layer, hidden, mask=causal(LENGTH), rotary=rotary, cache=cache)
        if number < count:
            hidden = hidden.clone()
            hidden[:, visual] += added[number]
    torch.testing.assert_close(hf.norm_of(subject.decoder)(hidden), stock, **EXACT)


def _attentions(subject: Subject, embedded: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Attention weights [1, H, S, S] of every layer, as transformers returns them."""
    return subject.decoder(inputs_embeds=embedded, position_ids=positions, output_attentions=True).attentions
