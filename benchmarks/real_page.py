"""The page that `make precision` writes."""

from __future__ import annotations

from typing import Any

from real_answers import LEAST, QUESTIONS, TEXTS, TOKENS


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    (tokens,) = {checkpoint["tokens"] for checkpoint in report["checkpoints"].values()}
    where = {"ort": "ONNX Runtime", "openvino": "OpenVINO, fp32 ONNX Runtime,"}[report["target"]]
    lines = [
        "# What fewer bits cost a pretrained language model",
        "",
        f"Made by `make precision` (`benchmarks/real_precision.py --target {report['target']}`): SmolLM2-135M-Instruct "
        f"(Apache-2.0, package {report['package']}) as the decoder of a LLaVA whose tower is random, K=2; {where} on "
        "the CPU; no calibration is given. The package has the "
        "model in four bits with offsets in blocks of 32. As packaged, its weights lie on that grid, where offsets "
        "would cost nothing and symmetric four bits more than they do elsewhere; off the grid each weight was moved "
        "by up to half a step of it, as trained weights lie anywhere.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["machine"].items()),
        "",
        f"Text: {tokens:,} tokens, `benchmarks/held_out.txt`, which scales are not made by, decoded one by one through "
        "the runtime; perplexity, its ratio to that of fp32, the share of positions whose likeliest "
        "token is that of fp32, and the mean KL divergence from fp32 in nats. Answers: "
        f"{len(QUESTIONS)} questions about each passage of a file, prompts of {LEAST} tokens and more, {TOKENS} tokens "
        "each, greedily: first tokens as in fp32, and the tokens as in fp32 before the first that is not. Prompts of "
        "`passages.txt` were looked at while int8 was built; the text and both sets while four bits were, in "
        "emulation. Bits a weight: bytes of the decoder's graphs, scales and the head included, over those of fp32.",
    ]
    for name, checkpoint in report["checkpoints"].items():
        lines += ["", f"## Weights {name}", "", *_table(checkpoint["precisions"]), "", _witnessed(checkpoint)]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    prompts = rows[0]["prompt_tokens"]
    heads = ["`--precision`", "bits a weight", "MiB", f"prefill of {prompts} tokens, ms", "decoded token, ms"]
    heads += ["perplexity", "to fp32", "likeliest token", "KL"]
    heads += [f"{text}: first tokens, of {TOKENS}" for text in TEXTS]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " --- |" * (len(heads) - 1)]
    for row in rows:
        cells = [row["precision"], f"{row['bits']:.2f}", f"{row['bytes'] / 2**20:.0f}"]
        cells += [f"{row['prefill_ms']:.0f}", f"{row['decode_ms']:.1f}", f"{row['perplexity']:.3f}"]
        cells += [f"{row['ratio']:.4f}", f"{row['top']:.1%}", f"{row['kl']:.4f}"]
        for text in TEXTS:
            found = row["answers"][text]
            cells.append(f"{found['first']} of {found['prompts']}, {found['prefix']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _witnessed(checkpoint: dict[str, Any]) -> str:
    theirs, ours = checkpoint["transformers"], checkpoint["precisions"][0]["perplexity"]
    return (
        f"transformers' own forward of the checkpoint has a perplexity of {theirs:.4f}: the fp32 bundle is "
        f"{abs(ours / theirs - 1):.1e} off. Times: medians, all bundles in turns."
    )
