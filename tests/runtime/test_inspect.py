"""fastv-inspect of plans with several cuts: by arithmetic that is done here by hand."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from fastv_runtime.cli.inspect import _print, inspect
from fastv_runtime.config.cuts import one_cut
from tests.runtime.test_build_profiles import CHAIN, DECODER, FIXED, manifest

ROW = 2 * 2 * 16 * 2
"""Bytes of a layer's keys and values of one token: two heads of 16, half precision."""


def test_a_chain_costs_what_its_stages_do() -> None:
    facts = inspect(
        manifest(FIXED, cuts=CHAIN)
    )  # 64 text and 144 visual tokens; 72 from layer 1 on, 36 from layer 3 on
    assert [(cut["layer"], cut["keep"]) for cut in facts["plan"]["cuts"]] == [(1, 0.5), (3, 0.25)]
    assert list(facts["graphs"]) == ["vision", "prefix", "select", "middle", "select_2", "suffix"]
    assert facts["capacity"] == {"rows": (208, 136, 100), "new_tokens": 32}
    cost = facts["cost"]
    assert (cost["tokens"], cost["pruned_lengths"]) == (208, (136, 100))
    assert cost["cache_bytes"] == ROW * (208 + 2 * 136 + 100)
    assert cost["cache_capacity_bytes"] == ROW * (208 + 2 * 136 + 100 + 4 * 32)
    exact = next(each for each in facts["effective_keep"] if (each["length"], each["text"]) == ("exact", 20))
    assert (exact["kept"], exact["pruned_length"]) == (36, 56)  # after the last cut
    fixed = next(each for each in facts["effective_keep"] if (each["length"], each["text"]) == ("fixed", 20))
    assert (fixed["kept"], fixed["pruned_length"]) == (36 + 12, 32 + 36)


def test_other_plans_have_one_cut_or_two_and_caches_of_their_own() -> None:
    for cuts in (CHAIN, one_cut(2, 0.5), one_cut(None, 1.0)):
        facts = inspect(manifest(FIXED, cuts=cuts))
        others = {tuple((cut["layer"], cut["keep"]) for cut in each["cuts"]): each for each in facts["other_plans"]}
        assert others.keys() >= {((1, 0.1),), ((3, 0.75),), ((1, 0.5), (2, 0.25)), ((1, 0.33), (2, 0.11))}
        two = others[(1, 0.33), (2, 0.2)]
        assert two["pruned_lengths"] == (64 + 48, 64 + 29)
        assert two["cache_capacity_bytes"] == ROW * (208 + 112 + 2 * 93 + 4 * 32)
        assert others[((2, 0.5),)]["cache_capacity_bytes"] == ROW * (2 * 208 + 2 * 136 + 4 * 32)
    shallow = inspect(
        manifest(FIXED, decoder=DECODER.model_copy(update={"num_hidden_layers": 2}), cuts=one_cut(1, 0.5))
    )
    assert all(cut["layer"] == 1 for each in shallow["other_plans"] for cut in each["cuts"])


def test_the_tables_name_every_cut() -> None:
    made = manifest(FIXED, cuts=CHAIN)
    console = Console(file=StringIO(), width=80)
    _print(made, inspect(made), console)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "plan: K=1, keep 0.5; K=3, keep 0.25, ranker fastv, exact length" in text
    for words in ("tokens from layer 1 on │ 136", "tokens from layer 3 on │ 100"):
        assert words in " ".join(text.split()), words
    assert "after the last cut, the plan's policy first" in text and "select_2" in text
    assert "│ K=1, 2 keep 0.33, 0.11 │ 80" in " ".join(text.split())
    _print(one := manifest(FIXED), inspect(one), console)
    assert "pruned length, the plan's policy first" in console.file.getvalue()
