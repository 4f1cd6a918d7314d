"""Every layout of images at a small size, with transformers' image processor for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastv_runtime.config.layouts import AnyresVision, FixedVision, PatchesVision, Vision
from fastv_runtime.config.tile_layouts import TilesVision, TileText

SIDE = 32
CROP = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE], [SIDE, 3 * SIDE]]
SPLIT = {
    "size": {"longest_edge": 4 * SIDE},
    "max_image_size": {"longest_edge": SIDE},
    "do_image_splitting": True,
}
TEXT = TileText(start="<", tile="{row},{column}", row_end="/", end=">")


def fixed(**settings: Any) -> FixedVision:
    return FixedVision(image_height=SIDE, image_width=SIDE, rows=4, columns=4, **settings)


def anyres(max_tiles: int | None = None) -> AnyresVision:
    pinpoints = tuple((height, width) for height, width in PINPOINTS)
    return AnyresVision(tile=SIDE, side=4, pinpoints=pinpoints, max_tiles=max_tiles)


def tiles(**settings: Any) -> TilesVision:
    return TilesVision(tile=SIDE, side=4, max_tiles=17, settings=settings, text=TEXT)


PATCHES = PatchesVision(channels=3, patch=4, frames_per_patch=2, merge=2, max_tokens=64)

LAYOUTS: dict[str, tuple[dict[str, Any], Vision]] = {
    "crop": ({"image_processor_type": "CLIPImageProcessor"} | CROP, fixed()),
    "pad": ({"image_processor_type": "CLIPImageProcessor"} | CROP, fixed(aspect="pad")),
    "squeeze": ({"image_processor_type": "SiglipImageProcessor", "size": {"height": SIDE, "width": SIDE}}, fixed()),
    "llava-next": ({"image_processor_type": "LlavaNextImageProcessor"} | CROP, anyres()),
    "onevision": (
        {"image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": SIDE, "width": SIDE}},
        anyres(max_tiles=2),
    ),
    "qwen": (
        {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4}
        | {"size": {"shortest_edge": 256, "longest_edge": 4096}},
        PATCHES,
    ),
    "internvl": (
        {"image_processor_type": "GotOcr2ImageProcessor", "size": {"height": SIDE, "width": SIDE}},
        tiles(crop_to_patches=True, max_patches=12),
    ),
    "idefics3": ({"image_processor_type": "Idefics3ImageProcessor"} | SPLIT, tiles(return_row_col_info=True)),
    "smolvlm": ({"image_processor_type": "SmolVLMImageProcessor"} | SPLIT, tiles(return_row_col_info=True)),
}


def write_processor(name: str, folder: Path) -> Vision:
    """The layout of that name, its image processor's file written to `folder`."""
    settings, vision = LAYOUTS[name]
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return vision
