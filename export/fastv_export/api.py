"""`fastv_export.export`: the command fastv-export as a function."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fastv_export.calibration import (
    ChosenPlan,
    chosen_for,
    read_calibration,
    source_digests,
)
from fastv_export.checkpoint.checkpoint import Checkpoint
from fastv_export.checkpoint.hub import resolve
from fastv_export.engines import build_after_export
from fastv_export.exporting import export_through
from fastv_export.fastest import AUTO_TARGET, CANDIDATES, export_fastest
from fastv_export.plan import CutOption, Options
from fastv_export.plan.calibrated import calibration_warnings
from fastv_export.progress import Progress
from fastv_export.quantization.activations import read_activations, sidecar_of
from fastv_export.quantization.presets import (
    BLOCK,
    BLOCKS,
    DEFAULTS,
    FEW_BITS,
    PARTS,
    PRECISIONS,
    PRESETS,
    PROCESSORS,
    TRT_BLOCK,
    WIDE,
)
from fastv_export.staging import staging
from fastv_export.targets import TARGETS
from fastv_runtime.arguments import checked
from fastv_runtime.config.bundle import Manifest
from fastv_runtime.config.plan import KEEP_STEPS, SHARE, Length, Part, Weights
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import AUTO

PLACE_NOTE = (
    "note: to cut at a sixth of the layers is a rule of thumb: fastv-calibrate finds where your model may be cut, and "
    "how much of your own images it must keep"
)
"""Where nobody says where to cut."""
PLACES = ("layer", "keep", "cuts")
"""Options that say where tokens are dropped and how many stay."""


@checked
def export(
    source: str | Path,
    output: str | Path,
    *,
    revision: str | None = None,
    target: str = "ort",
    precision: str | None = None,
    block: int | None = None,
    int8_parts: Sequence[Part] | None = None,
    calibration: str | Path | None = None,
    layer: int | None = None,
    keep: float | Literal["auto"] | None = None,
    ranker: str | None = None,
    length: Length | None = None,
    max_text: int | None = None,
    text_step: int | None = None,
    max_images: int = 1,
    max_visual: int | None = None,
    image_tokens: int | None = None,
    max_new_tokens: int = 256,
    cuts: Sequence[tuple[int, float] | tuple[int, float, str]] | None = None,
    share: float | None = None,
    keep_steps: int | None = None,
    prune: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
) -> Manifest:
    """Split a checkpoint at decoder layer K and write it as a bundle that prunes visual tokens there.

    The bundle appears at `output` whole or not at all. For a `trt` target its engines are built too, where TensorRT is
    at hand. Options are those of the command `fastv-export`, by the same names; lengths are in tokens.

    source: a checkpoint directory, as `save_pretrained` writes it, or a hub id (org/name).
    output: where the bundle is written; must not exist.
    revision: branch, tag or commit of a hub id; None means main.
    target: `ort` (ONNX Runtime), `openvino`, `trt` (TensorRT), `trt-rtx` or `trt-legacy` (TensorRT 10.3 to 10.14);
        `auto` exports for both `openvino` and `ort`, times both on this machine and leaves the faster bundle.
    precision: `fp32`, `fp16`, `bf16`, `int8`, `int4`, `fp8` or `nvfp4`; None means the target's: int8 for `ort` and
        `openvino`, else fp16.
    block: weights that share a scale; None means 32 in int4 (64 for TensorRT), in int8 all inputs of an output.
    int8_parts: parts that keep 8 bits in int4; None means vision, prefix, values and head.
    calibration: the file that `fastv_calib.calibrate` wrote for this checkpoint. Its cuts stand in for `layer`,
        `keep` and `cuts` where all three are None; its `ranker`, `length`, `max_text`, `image_tokens` and a `precision`
        of few bits where these are. What it saw scales weights and activations.
    layer: K, prune after this many decoder layers; None means a sixth of them.
    keep: fraction of visual tokens kept, above 0 and at most 1; None means 0.4, with a share 0.5. `auto` means a
        `share` of 0.9.
    ranker: what chooses the tokens that stay; None means `fastv`.
    length: pruned length, `exact` per prompt or `fixed` in steps of `text_step`; None means `exact`.
    max_text: text tokens a prompt may have; None means 128.
    text_step: `fixed` pruned lengths have room for text in multiples of so many tokens; None means 32.
    max_images: images a prompt may have.
    max_visual: visual tokens a prompt may have; None means those of `max_images` images, or of one video.
    image_tokens: most visual tokens of one image, for models that take any size; None means the family's.
    max_new_tokens: tokens an answer may have.
    cuts: several, in place of `layer` and `keep`, from the first layer to the last: of each its layer, the fraction of
        the prompt's visual tokens that it leaves, and what chooses them where that is not `ranker`.
    share: of each prompt keep as few visual tokens as hold this share of the attention to them, above 0 and below 1,
        and `keep` at most; None keeps that many of every prompt.
    keep_steps: how many counts a share chooses among, 1/keep_steps of the prompt's visual tokens apart; None means 16.
    prune: False writes the unsplit, unpruned baseline.
    verify: compare the graphs with transformers before the bundle appears.
    progress: draws on a console while its context is entered; None is quiet, and what an export has to say goes to the
        logger `fastv_export`.

    Returns the bundle's manifest. Raises UserError for what cannot be exported, VerificationError when a graph does not
    compute what transformers computes.
    """
    progress = progress or Progress(None)
    _check("target", [target], [*TARGETS, AUTO_TARGET])
    fastest = target == AUTO_TARGET
    target = CANDIDATES[0] if fastest else target  # what holds for one of them holds for all
    _check("precision", [] if precision is None else [precision], PRESETS)
    _check("block", [] if block is None else [block], BLOCKS)
    _check("int8_parts", int8_parts or (), PARTS)
    _check("length", [] if length is None else [length], get_args(Length))
    if isinstance(keep, str):
        _check("keep", [keep], [AUTO])
        share, keep = SHARE if share is None else share, None
    given: dict[str, Any] = {"layer": layer, "keep": keep, "ranker": ranker, "length": length, "max_text": max_text}
    if cuts is not None:
        if not cuts:
            raise UserError("`cuts` []: give one or more, or leave it out")
        for name in ("layer", "keep"):
            if given[name] is not None:
                raise UserError(f"`{name}` {given[name]}: `cuts` says where and how many: leave one of them out")
        if not prune:
            raise UserError("`cuts`: an unpruned model (`prune`) has none: leave one of them out")
    if not prune:
        for name, value in (given | {"share": share, "keep_steps": keep_steps}).items():
            if name != "max_text" and value is not None:
                raise UserError(f"`{name}` {value}: an unpruned model (`prune`) has none: leave one of them out")
    calibrated = None if calibration is None else read_calibration(calibration)
    output = Path(output)
    with staging(output, progress.note) as folder:  # the place is ours before anything is downloaded
        source = resolve(str(source), revision, progress)
        digests, chosen = None, None
        if calibrated is None:
            precision = precision or DEFAULTS.get(target)
        else:
            with progress.step("compare with the calibration"):
                digests = source_digests(Checkpoint(source))
                chosen = chosen_for(calibrated, source, digests)
            taken = chosen.precision if chosen.precision in FEW_BITS else None  # others are the target's own
            for warning in calibration_warnings(
                calibrated,
                places={name: given[name] for name in ("layer", "keep")} | {"cuts": cuts},
                ranker=ranker if prune else None,
                precision=None if precision else (taken or _own(target), DEFAULTS.get(target) or _own(target)),
                max_text=None if max_text else (chosen.max_text, Options.max_text),
            ):
                progress.note(warning)
            precision = precision or taken
        weights = _weights(precision, block, int8_parts, target, calibrated is not None)
        if weights is not None and not prune:
            weights = _unsplit(weights, int8_parts)
        activations = None
        if calibration is not None and calibrated is not None and weights is not None:
            activations = read_activations(sidecar_of(Path(calibration)), calibrated.activations)
        given |= {"cuts": tuple(CutOption(*cut) for cut in cuts or ()), "image_tokens": image_tokens}
        options = Options(
            **_planned(chosen, given, prune),
            share=share,
            keep_steps=KEEP_STEPS if keep_steps is None else keep_steps,
            text_step=text_step,
            max_images=max_images,
            max_visual=max_visual,
            max_new_tokens=max_new_tokens,
            precision=None if precision is None else PRESETS[precision].activations,
            weights=weights,
            target=target,
            verify=verify,
        )
        through = export_fastest if fastest else export_through
        manifest = through(folder, source, output, options, progress, activations, digests=digests)
        if calibrated is None and prune and not cuts and layer is None:
            progress.note(PLACE_NOTE)
        build_after_export(output, manifest, target, progress)
    return manifest


def _check(option: str, given: Iterable[object], known: Collection[object]) -> None:
    """UserError for a value of an option that is none of those that there are."""
    for value in given:
        if value not in known:
            raise UserError(f"`{option}` {value}: not known; there are {', '.join(map(str, known))}")


def _own(target: str) -> str:
    """Name of the precision that a target computes in where nothing else is asked for."""
    names = {value: name for name, value in PRECISIONS.items()}
    return names[TARGETS[target].precisions[0]]


def _planned(chosen: ChosenPlan | None, given: dict[str, Any], prune: bool) -> dict[str, Any]:
    """Options of the plan: what is given, else what a calibration chose; others have their defaults.

    Where tokens are dropped and how many is one choice: an option that says it is instead of all cuts that were chosen.
    """
    options = {name: value for name, value in given.items() if value is not None} | {"prune": prune}
    if chosen is None:
        return options
    options = chosen.model_dump(include={"length", "max_text", "image_tokens"}) | options
    if prune and not any(given[name] for name in PLACES):
        ranker = given["ranker"]
        options["cuts"] = tuple(CutOption(cut.layer, cut.keep, ranker or cut.ranker) for cut in chosen.cuts)
    return options


def _weights(
    precision: str | None, block: int | None, parts: Sequence[Part] | None, target: str, calibrated: bool
) -> Weights | None:
    weights = None if precision is None else PRESETS[precision].weights
    if weights is not None and weights.floating:
        for name, given in (("block", block), ("int8_parts", parts)):
            if given is not None:
                raise UserError(f"`{name}`: `precision` {precision} has blocks and parts of its own: leave it out")
        return weights
    if parts is not None and (weights is None or weights.bits == 8):
        raise UserError("`int8_parts`: they keep 8 bits where others have 4: add `precision` int4, or leave it out")
    if weights is None:
        if block is not None:
            raise UserError(f"`block` {block}: is of weights of few bits: add `precision` int4 or int8")
        return None
    if weights.bits == 8:
        return weights.model_copy(
            update={"block": block, "static": calibrated and target not in PROCESSORS and block is None}
        )
    wide = WIDE if parts is None else tuple(dict.fromkeys(parts))
    return weights.model_copy(update={"block": block or (BLOCK if target in PROCESSORS else TRT_BLOCK), "wide": wide})


def _unsplit(weights: Weights, parts: Sequence[Part] | None) -> Weights:
    """Of a decoder without a prefix: its first layer keeps its bits instead."""
    if parts is not None and "prefix" in parts:
        raise UserError("`int8_parts` prefix: an unpruned decoder has none: use first, the decoder's first layer")
    wide: list[Part] = ["first" if part == "prefix" else part for part in weights.wide]
    return weights.model_copy(update={"wide": tuple(dict.fromkeys(wide))})
