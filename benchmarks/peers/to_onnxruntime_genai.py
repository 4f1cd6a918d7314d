"""Convert the checkpoint for onnxruntime-genai: its model builder writes the decoder, and this what goes beside it.

    python -m peers.to_onnxruntime_genai CHECKPOINT OUT PRECISION SIDE [BUILDER_OPTION=VALUE ...]

The builder has no graph of Qwen2.5-VL's tower, nor of the embeddings that its features are set into. The tower is
transformers' own, in fp32, traced for one image of SIDE x SIDE pixels; its windows, all of one size then, are a batch
to the attention. What the runtime must know of them, and of how images are resized, goes into its two configs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

OPSET = 18


def main() -> None:
    checkpoint, out, side = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
    builder: list[str | Path] = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    builder += ["-m", checkpoint, "-o", out, "-p", sys.argv[3], "-e", "cpu"]
    options = ["exclude_embeds=true", *sys.argv[5:]]
    with TemporaryDirectory(dir=out.parent) as cache:
        subprocess.run([*builder, "-c", cache, "--extra_options", *options], check=True)

    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, local_files_only=True, dtype="float32").eval()
    write_tower(model, side, out / "vision.onnx")
    write_embeddings(model.get_input_embeddings().weight, model.config.image_token_id, out / "embedding.onnx")
    write_config(model.config, out / "genai_config.json")
    preprocessor = json.loads((checkpoint / "preprocessor_config.json").read_text(encoding="utf-8"))
    write_processor(preprocessor, out / "processor_config.json")


def write_tower(model: Any, side: int, path: Path) -> None:
    """pixel_values [patches, values of a patch] to image_features [tokens, width]; image_grid_thw is not looked at."""
    import torch
    from transformers import AttentionInterface

    # An attention whose name has flash in it is given all windows as one sequence, with their bounds.
    AttentionInterface.register("windows_flash", attend_in_windows)
    model.set_attn_implementation({"vision_config": "windows_flash"})
    config = model.config.vision_config
    patches = side // config.patch_size
    grid = torch.tensor([[1, patches, patches]])
    pixels = torch.randn(patches**2, config.in_channels * config.temporal_patch_size * config.patch_size**2)

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = model.model.visual

        def forward(self, pixel_values: Any, image_grid_thw: Any) -> Any:
            return self.visual(pixel_values, grid).pooler_output + 0 * image_grid_thw.sum()

    names: dict[str, Any] = {
        "input_names": ["pixel_values", "image_grid_thw"],
        "output_names": ["image_features"],
    }
    with warnings.catch_warnings():
        # What it warns of is what is wanted: a graph of one size, the grid's values built in.
        warnings.simplefilter("ignore")
        torch.onnx.export(Tower(), (pixels, grid), path, opset_version=OPSET, dynamo=False, **names)


def attend_in_windows(module: Any, query: Any, key: Any, value: Any, **options: Any) -> tuple[Any, None]:
    """Attention of one sequence of windows that are all of a size; [1, heads, patches, width] in."""
    import torch

    sizes = options["cu_seq_lens_q"].diff()
    if (sizes != sizes[0]).any():
        raise ValueError("windows of several sizes: take an image whose sides are multiples of a window's")
    windows = len(sizes)
    q, k, v = (each.unflatten(2, (windows, -1)).squeeze(0).transpose(0, 1) for each in (query, key, value))
    seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=options["scaling"])
    return seen.transpose(1, 2).flatten(0, 1).unsqueeze(0), None


def write_embeddings(weight: Any, image_token: int, path: Path) -> None:
    """input_ids [batch, tokens] and image_features [n, width] to inputs_embeds, features where image tokens are."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(weight.detach().numpy(), "table")
    image = numpy_helper.from_array(np.array(image_token, "int64"), "image")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Equal", ["input_ids", "image"], ["is_image"]),
        helper.make_node("NonZero", ["is_image"], ["where"]),
        helper.make_node("Transpose", ["where"], ["places"], perm=[1, 0]),
        helper.make_node("ScatterND", ["words", "places", "image_features"], ["inputs_embeds"]),
    ]
    width = weight.shape[1]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["features", width]),
    ]
    outputs = [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, ["batch", "tokens", width])]
    graph = helper.make_graph(nodes, "embedding", inputs, outputs, [table, image])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9), path)


def write_config(config: Any, path: Path) -> None:
    """Names the two graphs in what the builder wrote, and the ids and sizes that positions are worked out from."""
    said = json.loads(path.read_text(encoding="utf-8"))
    vision = config.vision_config
    said["model"] |= {
        "embedding": {
            "filename": "embedding.onnx",
            "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
            "outputs": {"inputs_embeds": "inputs_embeds"},
        },
        "vision": {
            "filename": "vision.onnx",
            "config_filename": "processor_config.json",
            "spatial_merge_size": vision.spatial_merge_size,
            "tokens_per_second": float(vision.tokens_per_second),
            "patch_size": vision.patch_size,
            "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
            "outputs": {"image_features": "image_features"},
        },
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "vision_start_token_id": config.vision_start_token_id,
    }
    path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def write_processor(preprocessor: dict[str, Any], path: Path) -> None:
    """The steps from an image's file to patches, in onnxruntime-extensions' words."""
    sizes = {"patch_size": preprocessor["patch_size"], "merge_size": preprocessor["merge_size"]}
    limits = {name: preprocessor[name] for name in ("min_pixels", "max_pixels")}
    statistics = {"mean": preprocessor["image_mean"], "std": preprocessor["image_std"]}
    temporal = {"temporal_patch_size": preprocessor["temporal_patch_size"]}
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("decode_image", "DecodeImage", {"color_space": "RGB"}),
        ("convert_to_rgb", "ConvertRGB", {}),
        # Width and height are what it would resize to if it were not `smart`.
        ("resize", "Resize", {"width": 672, "height": 672, "smart_resize": 1} | limits | sizes),
        ("rescale", "Rescale", {"rescale_factor": preprocessor["rescale_factor"]}),
        ("normalize", "Normalize", statistics | {"qwen2_5_vl": 1}),
        ("patch_image", "PatchImage", sizes | temporal),
    ]
    transforms = [
        {"operation": {"name": name, "type": kind} | ({"attrs": settings} if settings else {})}
        for name, kind, settings in steps
    ]
    processor = {"processor": {"name": "qwen2_5_image_processor", "transforms": transforms}}
    path.write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
