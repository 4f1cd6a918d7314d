"""The cost model against the paper's own table."""

from __future__ import annotations

import pytest

from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cost import cache_bytes, decoder_flops, layer_flops, plan_cost, tokens_per_layer
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.lengths import capacity
from fastv_runtime.config.plan import Plan

LLAVA_13B = DecoderConfig(
    hidden_size=5120,
    num_hidden_layers=40,
    num_attention_heads=40,
    num_key_value_heads=40,
    head_dim=128,
    intermediate_size=13824,
    vocab_size=32064,
    gated_mlp=True,
)
TEXT, VISUAL = 36, 576

# Table 1 of arXiv 2403.06764, column "Flops (B)" of LLaVA-1.5-13B: the average per layer, in units of 1e9.
PAPER = {
    (2, 0.50): 84.6,
    (2, 0.75): 50.2,
    (2, 0.90): 29.7,
    (3, 0.50): 86.4,
    (3, 0.75): 52.9,
    (3, 0.90): 33.0,
    (5, 0.50): 90.1,
    (5, 0.75): 58.4,
    (5, 0.90): 39.6,
}


def _average_billions(layer: int | None, ratio: float) -> float:
    # The paper does not round the number of kept tokens; 10% of 576 is 57.6.
    pruned = TEXT + (1 - ratio) * VISUAL
    cuts, given = ([], [TEXT + VISUAL]) if layer is None else ([layer], [TEXT + VISUAL, pruned])
    rows = tokens_per_layer(LLAVA_13B, cuts, given)  # type: ignore[arg-type]
    return decoder_flops(LLAVA_13B, rows).paper / LLAVA_13B.num_hidden_layers / 1e9


@pytest.mark.parametrize(("layer", "ratio"), PAPER)
def test_flops_column_of_the_paper_to_the_printed_decimal(layer: int, ratio: float) -> None:
    assert round(_average_billions(layer, ratio), 1) == PAPER[layer, ratio]


def test_unpruned_flops_of_the_paper() -> None:
    assert round(_average_billions(None, 0.0), 1) == 154.6


def test_a_gated_layer_costs_a_third_matrix_more() -> None:
    flops = layer_flops(LLAVA_13B, 100)
    assert flops.gated - flops.paper == 100 * 5120 * 13824


def test_an_mlp_runs_on_the_rows_of_the_next_layer_and_the_last_on_one() -> None:
    layers = [layer_flops(LLAVA_13B, rows).gated for rows in (100, 100, 60)]
    mlp = 3 * 5120 * 13824
    assert decoder_flops(LLAVA_13B, [100, 100, 60]).gated == sum(layers) - (100 - 60) * mlp - (60 - 1) * mlp


def test_grouped_query_heads_make_smaller_caches_and_projections() -> None:
    grouped = LLAVA_13B.model_copy(update={"num_key_value_heads": 8})
    assert cache_bytes(grouped, [10, 10], "float32") * 5 == cache_bytes(LLAVA_13B, [10, 10], "float32")
    saved = decoder_flops(LLAVA_13B, [100]).gated - decoder_flops(grouped, [100]).gated
    assert saved == 2 * 100 * 5120 * (40 - 8) * 128


def test_cache_bytes_of_llava_13b_by_hand() -> None:
    # 2 (key and value) x 40 heads x 128 wide x 2 bytes = 20480 bytes per token and layer
    assert cache_bytes(LLAVA_13B, [612] * 40, "float16") == 20480 * 612 * 40


def test_plan_cost_of_a_split_plan() -> None:
    plan = Plan(
        cuts=one_cut(2, 0.5),
        length="exact",
        precision="float32",
        max_text=36,
        max_visual=576,
        max_new_tokens=10,
    )
    cost = plan_cost(LLAVA_13B, plan, capacity(plan))
    assert (cost.tokens, cost.pruned_lengths) == (612, (324,))
    assert round(cost.flops.paper / 40 / 1e9, 1) == PAPER[2, 0.5]
    assert cost.cache_bytes == 2 * 40 * 128 * 4 * (2 * 612 + 38 * 324)
    assert cost.cache_capacity_bytes - cost.cache_bytes == 2 * 40 * 128 * 4 * 40 * 10


def test_a_chain_costs_what_its_layers_see() -> None:
    assert tokens_per_layer(LLAVA_13B, [2, 5, 39], [600, 300, 100, 50]) == [600] * 2 + [300] * 3 + [100] * 34 + [50]
    assert tokens_per_layer(LLAVA_13B, [], [600]) == [600] * 40
    with pytest.raises(ValueError, match="argument"):
        tokens_per_layer(LLAVA_13B, [2, 5], [600, 300])
