"""All graphs of an export, and the chain of them, beside transformers: worst differences, or one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastv_export.progress import Progress
from fastv_export.verify.end_to_end import EndToEnd
from fastv_export.verify.golden import Tensors
from fastv_export.verify.graphs import verify_graph
from fastv_runtime.config.bundle import DecoderConfig, GraphSpec
from fastv_runtime.config.plan import Plan


class VerificationError(Exception):
    """A graph does not compute what transformers computes."""


def verify_graphs(
    graphs: dict[str, GraphSpec],
    folder: Path,
    golden: Tensors,
    plan: Plan,
    dimensions: DecoderConfig,
    chain: EndToEnd | None,
    progress: Progress,
) -> dict[str, float]:
    """Worst difference of every graph from transformers; VerificationError if one is more than rounding explains.

    chain: the question that goes through the same graphs.
    """
    arrays = {name: tensor.numpy() for name, tensor in golden.items()}
    worst: dict[str, float] = {}
    wrong = []
    for name, spec in graphs.items():
        data = folder / spec.weights_file
        with progress.weights(f"verify {name}", data.stat().st_size if data.is_file() else 0) as read:
            if chain is not None and name == plan.decoder_graphs[0]:
                chain.encode(read)
            beside = [] if chain is None else chain.runs(name)
            compared = verify_graph(name, spec, folder, arrays, plan, dimensions, read, beside=beside)
        if compared:
            worst[name] = max(each.difference for each in compared)
            wrong += [f"{name} by {each.difference:.2g} at {each.output}" for each in compared if not each.passed][:1]
    if wrong:
        raise VerificationError(f"graphs differ from transformers: {', '.join(wrong)}; no bundle was written")
    return worst


def verify_chain(chain: EndToEnd, stock: Any) -> float:
    """Worst difference of the whole chain; VerificationError if it is more than rounding explains."""
    compared = chain.compare(stock)
    wrong = [str(each) for each in compared if not each.passed]
    if wrong:
        raise VerificationError(
            f"from image to tokens, the bundle differs from transformers: {', '.join(wrong)}; no bundle was written"
        )
    return max(each.difference for each in compared)
