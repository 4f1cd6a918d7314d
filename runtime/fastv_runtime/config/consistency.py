"""Whether what a manifest says in one place is what it says in another. Arithmetic alone: no file is opened."""

from __future__ import annotations

from fastv_runtime.config.base import TensorSpec
from fastv_runtime.config.io_spec import io_specs
from fastv_runtime.config.layouts import FixedVision, FramesVideo, PatchesVideo, PooledVideo, VideoLayout, Vision
from fastv_runtime.config.manifest import EMBEDDING, Manifest
from fastv_runtime.config.tile_layouts import TilesVideo
from fastv_runtime.memory.layout import numpy_dtype


def check_consistent(manifest: Manifest) -> None:
    """Raises ValueError, one line that names the field, for a manifest that contradicts itself."""
    plan, decoder = manifest.plan, manifest.decoder
    for cut in plan.cuts:
        if cut.layer >= decoder.num_hidden_layers:
            raise ValueError(
                f"plan.cuts: layer {cut.layer}: must be below decoder.num_hidden_layers, {decoder.num_hidden_layers}"
            )
    if manifest.video is not None:
        _check_video(manifest.vision, manifest.video)
    _check_graphs(manifest)
    _check_tokens(manifest)
    _check_embedding(manifest)
    if manifest.quantization is not None and manifest.quantization.same > manifest.quantization.asked:
        raise ValueError("quantization.same is above quantization.asked, of which it is a part")


def _check_graphs(manifest: Manifest) -> None:
    plan = manifest.plan
    wanted = io_specs(manifest.decoder, manifest.vision, manifest.video, plan, plan.precision)
    for name in wanted:
        if name not in manifest.graphs:
            raise ValueError(f"graphs has no {name}, which this plan needs")
    for name, graph in manifest.graphs.items():
        if name not in wanted:
            raise ValueError(f"graphs has {name!r}, which this plan has no use for")
        for kind, found, expected in zip(
            ("inputs", "outputs"), (graph.inputs, graph.outputs), wanted[name], strict=True
        ):
            _check_tensors(f"graphs.{name}.{kind}", found, expected)
    if len(dialects := {graph.dialect for graph in manifest.graphs.values()}) > 1:
        raise ValueError(f"graphs are of one dialect, and these of {', '.join(sorted(dialects))}")
    files = [graph.file for graph in manifest.graphs.values()]
    if len(set(files)) < len(files):
        raise ValueError("graphs has two graphs in one file")


def _check_tensors(where: str, found: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]) -> None:
    if (names := [tensor.name for tensor in found]) != (needed := [tensor.name for tensor in expected]):
        wrong = next((pair for pair in zip(names, needed, strict=False) if pair[0] != pair[1]), None)
        raise ValueError(
            f"{where} has {wrong[0]!r} where decoder, vision and plan ask for {wrong[1]!r}"
            if wrong is not None
            else f"{where} has {len(names)} tensors where decoder, vision and plan ask for {len(needed)}"
        )
    for one, other in zip(found, expected, strict=True):
        if one != other:
            raise ValueError(
                f"{where}: {one.name} is {_spec(one)} where decoder, vision and plan ask for {_spec(other)}"
            )


def _spec(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def _check_video(vision: Vision, video: VideoLayout) -> None:
    """A video that goes through the images' own graph fits it."""
    if isinstance(video, FramesVideo):
        if video.graph == "video":
            return
        if video.image.inputs() != vision.inputs():
            raise ValueError("video.image: the graph `vision` takes images of another size")
        if video.tokens_per_frame != vision.feature_rows:
            raise ValueError(
                f"video.tokens_per_frame is {video.tokens_per_frame}: the graph `vision` makes {vision.feature_rows}"
            )
    elif isinstance(video, PooledVideo):
        if isinstance(vision, FixedVision):
            fits = (vision.image_height, vision.image_width, vision.tokens) == (video.tile, video.tile, video.side**2)
        else:
            fits = (getattr(vision, "tile", 0), getattr(vision, "side", 0)) == (video.tile, video.side)
        if not fits:
            raise ValueError("video.tile and video.side: the graph `vision` takes images of another size")
    elif isinstance(video, PatchesVideo | TilesVideo) and (
        type(video.image) is not type(vision)
        or video.image.inputs() != vision.inputs()
        or video.image.feature_rows != vision.feature_rows
    ):
        raise ValueError("video.image: the graph `vision` takes images of another size")


def _check_tokens(manifest: Manifest) -> None:
    size, tokens = manifest.decoder.vocab_size, manifest.tokens
    for name, token in (("image", tokens.image), ("video", tokens.video)):
        if token is not None and token >= size:
            raise ValueError(f"tokens.{name} is {token}: decoder.vocab_size is {size}, so ids go up to {size - 1}")


def _check_embedding(manifest: Manifest) -> None:
    decoder, dtype = manifest.decoder, manifest.embedding_dtype
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"embedding_dtype is {dtype!r}: must be 'float32', 'float16' or 'bfloat16'")
    needed = decoder.vocab_size * decoder.hidden_size * numpy_dtype(dtype).itemsize
    size = manifest.files[EMBEDDING].size
    if size != needed:
        raise ValueError(
            f"embedding_dtype is {dtype!r}: a table of {decoder.vocab_size} x {decoder.hidden_size} has {needed} bytes "
            f"then, and {EMBEDDING} has {size}"
        )
