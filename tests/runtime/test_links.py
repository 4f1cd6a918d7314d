"""Which buffer each tensor is: aliases, offsets and shapes in prefill and decode, with every kind of decoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from fastv_runtime import UserError
from fastv_runtime.config.bundle import DecoderConfig, GraphSpec
from fastv_runtime.config.cuts import Cut, one_cut
from fastv_runtime.config.io_spec import decoder_io_specs
from fastv_runtime.config.lengths import Capacity, capacity, pruned_length
from fastv_runtime.config.plan import Plan
from fastv_runtime.memory.bindings import TensorBindings, arena_layout, decoder_links, step_lengths
from fastv_runtime.memory.layout import Layout, Region

WIDTH, HEADS, HEAD = 64, 2, 8
LAYERS = 5


def linked(
    *, layer: int | None = 2, cuts: tuple[Cut, ...] | None = None, axes: int = 1, deepstack: int = 0
) -> tuple[dict[str, TensorBindings], Layout, Plan, Capacity]:
    decoder = DecoderConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=HEADS,
        head_dim=HEAD,
        intermediate_size=128,
        vocab_size=321,
        gated_mlp=True,
        position_axes=axes,  # type: ignore[arg-type]
        deepstack_layers=deepstack,
    )
    plan = Plan(
        cuts=one_cut(layer, 0.5) if cuts is None else cuts,
        length="fixed",
        precision="float16",
        max_text=32,
        max_visual=100,
        max_new_tokens=10,
    )
    graphs = {
        name: GraphSpec(file=f"{name}.onnx", dialect="trt", opset=24, inputs=inputs, outputs=outputs)
        for name, (inputs, outputs) in decoder_io_specs(decoder, plan, "float16").items()
    }
    links = decoder_links(graphs, plan)
    return links, arena_layout(links, plan, capacity(plan)), plan, capacity(plan)


def regions(links: TensorBindings, layout: Layout, lengths: dict[str, int], **options: Any) -> dict[str, Region]:
    return links.inputs(layout, lengths, **options) | links.outputs(layout, lengths, **options)


@pytest.mark.parametrize("step", [False, True], ids=["prefill", "decode"])
@pytest.mark.parametrize("layer", [2, None])
def test_past_and_present_are_one_buffer_and_no_other_two_are(layer: int | None, step: bool) -> None:
    links, layout, plan, _ = linked(layer=layer)
    caches: list[Region] = []
    for name, first, stop in [("prefix", 0, 2), ("suffix", 2, 5)] if layer else [("decoder", 0, 5)]:
        found = regions(links[name], layout, step_lengths(plan) if step else {"S": 50, "M": 40}, step=step)
        for index in range(first, stop):
            for kind in ("key", "value"):
                past = found[f"past_{kind}_{index}"]
                assert past == found[f"present_{kind}_{index}"] == layout[f"{name}.{kind}_{index}"]
                assert past.shape == (1, HEADS, links[name].cache_rows, HEAD)
                caches.append(past)
    assert len({region.offset for region in caches}) == 2 * LAYERS


@pytest.mark.parametrize(("policy", "pruned"), [("fixed", 32 + 30), ("exact", 20 + 30)])
def test_a_prompt_goes_from_graph_to_graph(policy: str, pruned: int) -> None:
    links, layout, plan, room = linked()
    text, visual = 20, 60
    assert pruned_length(plan, text, visual, policy, room) == pruned
    lengths = {"S": text + visual, "M": pruned}
    prefix, select, suffix = (regions(links[name], layout, lengths) for name in ("prefix", "select", "suffix"))
    assert prefix["hidden"] == layout["prompt"].leading((1, 80, WIDTH))
    assert prefix["position_ids"].shape == (1, 80)
    assert prefix["position_ids"] == select["position_ids"]
    assert prefix["hidden_out"] == select["hidden"]
    assert prefix["scores"] == select["scores"]
    assert select["pruned_hidden"] == suffix["hidden"]
    assert suffix["hidden"].shape == (1, pruned, WIDTH)
    assert select["pruned_position_ids"] == suffix["position_ids"]
    assert select["keep"].shape == (1, pruned)
    assert suffix["logits"].shape == (1, 1, 321)
    assert (suffix["token"].dtype, suffix["token"].shape) == ("int64", (1, 1))
    # What is read must not be what is written, but for the caches.
    written = {region.offset for name, region in select.items() if name.startswith(("pruned_", "keep"))}
    assert not written & {select[name].offset for name in ("hidden", "scores", "position_ids", "prunable", "length")}


def test_a_decoded_row_needs_no_copy_between_the_graphs() -> None:
    links, layout, *_ = linked()
    prefix, suffix = (regions(links[name], layout, {"S": 1, "M": 1}, step=True) for name in ("prefix", "suffix"))
    assert prefix["hidden"] == layout["step.prompt"].leading((1, 1, WIDTH))
    assert prefix["hidden_out"] == suffix["hidden"] == layout["step.hidden"].leading((1, 1, WIDTH))
    assert prefix["position_ids"] == suffix["position_ids"]
    # The caches differ in how much they hold, so they go on at different places.
    assert prefix["write_index"] != suffix["write_index"]


def test_what_is_decoded_leaves_a_prompt_s_rows_alone() -> None:
    links, layout, plan, room = linked(cuts=CHAIN, deepstack=3)
    lengths = dict(zip(("S", "M", "M_2", "M_3"), room.rows, strict=True))

    def of_rows(name: str, *, step: bool) -> set[Region]:
        link = links[name]
        found = regions(link, layout, step_lengths(plan) if step else lengths, step=step)
        dynamic = [each.name for each in (*link.spec.inputs, *link.spec.outputs) if not all(map(_is_int, each.shape))]
        return {found[each] for each in dynamic}

    stages = ("prefix", "middle", "middle_2", "suffix")
    prompt = {each.offset for name in stages for each in of_rows(name, step=False)}
    assert not prompt & {each.offset for name in stages for each in of_rows(name, step=True)}


def _is_int(axis: int | str) -> bool:
    return isinstance(axis, int)


def test_the_last_rows_of_a_prompt_are_at_their_place_and_their_positions_in_front() -> None:
    links, layout, *_ = linked(axes=3, deepstack=3)
    link = links["prefix"]
    found = link.inputs(layout, {"S": 5}, first=45) | link.outputs(layout, {"S": 5}, first=45)
    whole = regions(link, layout, {"S": 50})
    for name in ("hidden", "hidden_out", "deepstack_0"):
        assert found[name].shape == (1, 5, WIDTH)
        assert found[name].offset == whole[name].offset + 45 * WIDTH * 2
    assert (found["position_ids"].shape, found["position_ids"].offset) == ((3, 1, 5), whole["position_ids"].offset)
    for name in ("past_key_0", "present_key_0", "scores"):
        assert found[name] == whole[name]
    with pytest.raises(ValueError, match="reaches past the end"):
        link.inputs(layout, {"S": 5}, first=layout["prompt"].shape[1] - 4)


def test_mrope_positions_have_three_axes_side_by_side() -> None:
    links, layout, *_ = linked(axes=3)
    found = regions(links["prefix"], layout, {"S": 50})["position_ids"]
    assert (found.shape, found.offset) == ((3, 1, 50), layout["position_ids"].offset)
    assert regions(links["suffix"], layout, {"S": 1, "M": 1}, step=True)["position_ids"].shape == (3, 1, 1)
    assert regions(links["select"], layout, {"S": 50, "M": 40})["pruned_position_ids"].shape == (3, 1, 40)


def test_deepstack_goes_through_select_where_it_is_due_later() -> None:
    links, layout, *_ = linked(deepstack=3)
    lengths = {"S": 50, "M": 40}
    prefix, select, suffix = (regions(links[name], layout, lengths) for name in ("prefix", "select", "suffix"))
    assert {name for name in prefix if name.startswith("deepstack")} == {"deepstack_0"}
    # What is added after layer K-1 is added to the kept rows.
    assert {name for name in select if name.startswith("deepstack")} == {"deepstack_1", "deepstack_2"}
    assert select["deepstack_2"] == layout["deepstack_2"].leading((1, 50, WIDTH))
    assert select["pruned_deepstack_2"] == suffix["deepstack_2"]
    step = regions(links["suffix"], layout, {"S": 1, "M": 1}, step=True)
    assert step["deepstack_2"] == layout["step.deepstack_2"].leading((1, 1, WIDTH))


def test_the_unsplit_decoder_reads_the_prompt_and_tells_the_token() -> None:
    links, layout, *_ = linked(layer=None, deepstack=1)
    assert list(links) == ["decoder"]
    found = regions(links["decoder"], layout, {"S": 50})
    assert found["hidden"] == layout["prompt"].leading((1, 50, WIDTH))
    assert found["deepstack_0"] == layout["deepstack_0"].leading((1, 50, WIDTH))
    assert found["token"] == layout["token"]


def test_a_prompt_beyond_the_capacity_has_no_binding() -> None:
    links, layout, _, room = linked()
    regions(links["prefix"], layout, {"S": room.prompt})
    with pytest.raises(ValueError, match="reaches past the end"):
        regions(links["prefix"], layout, {"S": room.prompt + 1})
    with pytest.raises(ValueError, match="reaches past the end"):
        regions(links["suffix"], layout, {"M": room.pruned + 1})


@pytest.mark.parametrize("graph", ["prefix", "suffix"])
def test_a_full_cache_is_an_error_that_says_how_to_make_room(graph: str) -> None:
    links, _, _, room = linked()
    rows = {"prefix": room.keys[0], "suffix": room.keys[1]}[graph]
    links[graph].check_room(rows - 1, 1)
    with pytest.raises(UserError, match=f"the {graph}'s cache is full: it holds {rows} tokens.*max_new_tokens"):
        links[graph].check_room(rows, 1)


CHAIN = (
    Cut(layer=1, keep=0.5, ranker="fastv"),
    Cut(layer=2, keep=0.3, ranker="fastv", signals=("scores", "change")),
    Cut(layer=4, keep=0.1, ranker="fastv"),
)


def test_a_chain_hands_each_stage_what_the_cut_before_left() -> None:
    links, layout, _, room = linked(cuts=CHAIN, axes=3, deepstack=3)
    assert list(links) == ["prefix", "select", "middle", "select_2", "middle_2", "select_3", "suffix"]
    assert room.rows == (132, 82, 62, 42)
    lengths = dict(zip(("S", "M", "M_2", "M_3"), room.rows, strict=True))
    prefix, select, middle, second, after, third, suffix = (regions(each, layout, lengths) for each in links.values())
    assert prefix["hidden_out"] == select["hidden"]
    assert select["pruned_hidden"] == middle["hidden"]
    assert middle["hidden_out"] == second["hidden"] != select["hidden"]
    assert middle["scores"] == second["scores"] != select["scores"]
    assert (second["pruned_hidden"], second["pruned_position_ids"]) == (after["hidden"], after["position_ids"])
    assert third["pruned_hidden"] == suffix["hidden"]
    assert suffix["hidden"].shape == (1, 42, WIDTH)
    # What cuts choose from goes through those before.
    assert (select["pruned_prunable"], select["pruned_change"]) == (second["prunable"], second["change"])
    assert second["pruned_prunable"] == third["prunable"]
    assert "pruned_prunable" not in third
    assert "pruned_change" not in second
    # Features are added after layers 0, 1 and 2: behind the first cut, behind it too, and behind the second.
    assert [name for name in middle if name.startswith("deepstack")] == ["deepstack_0"]
    assert [name for name in after if name.startswith("deepstack")] == ["deepstack_1", "deepstack_2"]
    assert select["pruned_deepstack_2"] == second["deepstack_2"]
    assert second["pruned_deepstack_2"] == after["deepstack_2"]
    # What a graph reads must not be what it writes, but for the caches.
    for name, link in links.items():
        inputs, outputs = link.inputs(layout, lengths), link.outputs(layout, lengths)
        read = {region.offset for key, region in inputs.items() if not key.startswith("past_")}
        assert not read & {region.offset for key, region in outputs.items() if not key.startswith("present_")}, name


def test_a_decoded_row_goes_through_a_chain_without_selects() -> None:
    links, layout, plan, _ = linked(cuts=CHAIN, deepstack=3)
    one = step_lengths(plan)
    stages = [regions(links[name], layout, one, step=True) for name in ("prefix", "middle", "middle_2", "suffix")]
    for before, after in pairwise(stages):
        assert before["hidden_out"] == after["hidden"]
        assert before["position_ids"] == after["position_ids"] == layout["step.position_ids"].leading((1, 1))
    assert stages[2]["deepstack_2"] == layout["step.deepstack_2"].leading((1, 1, WIDTH))
    assert len({stage["write_index"] for stage in stages}) == 4


def test_every_stage_of_a_chain_has_room_for_its_own_rows() -> None:
    links, _, _, room = linked(cuts=CHAIN)
    stages = ("prefix", "middle", "middle_2", "suffix")
    assert tuple(links[name].cache_rows for name in stages) == room.keys == (142, 92, 72, 52)
