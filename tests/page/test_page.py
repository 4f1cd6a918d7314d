"""The page asks what a person asks and shows what the model answered, and kept, as the pipeline itself says."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route

from fastv_runtime import Pipeline
from tests.conftest import noise_image
from tests.page.conftest import NARROW, OpenPage, Shown

FIRST, SECOND = "What color is the circle?", "fox?"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        noise_image(seed).save(path)
    return paths


def asked(text: str, *images: Path) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image", "image": path} for path in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def test_an_answer_is_the_pipelines(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    expected = tiny_pipeline.generate(messages=[asked(FIRST, images[0])])
    shown.attach(images[0])
    shown.ask(FIRST)
    assert shown.answer == expected.text.lstrip()
    assert shown.kept() == [expected.kept_visual_tokens]
    counts = dict(zip(*(shown.last.locator(f".counts {name}").all_inner_texts() for name in ("dt", "dd")), strict=True))
    assert counts["Prompt"] == str(expected.prompt_tokens)
    assert counts["Visual"] == str(expected.visual_tokens)
    assert counts["Kept"].split() == [str(len(expected.kept_visual_tokens)), "50%"]
    assert counts["Answer"] == str(len(expected.token_ids))
    stages = shown.last.get_by_role("table", name="Time of each stage").get_by_role("rowheader").all_inner_texts()
    assert stages[:5] == ["preprocess", "vision", "prefix", "select", "suffix"]
    assert stages[5:] == ["first token", "each further token"]


def test_dropped_patches_are_dimmed_as_in_a_drawing(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    with tiny_pipeline.stream(messages=[asked(FIRST, images[0])]) as generation:
        drawing = generation.draw_kept()
    shown.attach(images[0])
    shown.ask(FIRST)
    view = shown.last.locator(".view")
    seen = Image.open(io.BytesIO(view.screenshot(animations="disabled"))).convert("RGB")
    # The middle of each of 12 x 12 patches: frames are at their edges.
    middles = [
        [image.getpixel((int((x + 0.5) * image.width / 12), int((y + 0.5) * image.height / 12))) for x in range(12)]
        for image in (drawing, seen)
        for y in range(12)
    ]
    expected, found = np.array(middles[:12], np.int16), np.array(middles[12:], np.int16)
    # A browser smooths what it enlarges, a drawing does not.
    assert np.abs(expected - found).mean() < 4
    assert np.abs(expected - found).max() < 40


def test_the_slider_changes_what_is_kept(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    usual = tiny_pipeline.generate(messages=[asked(FIRST, images[0])])
    fewer = tiny_pipeline.generate(messages=[asked(FIRST, images[0])], keep=0.25)
    slider = shown.tab.get_by_role("slider", name="Keep")
    assert slider.input_value() == "0.5"
    shown.attach(images[0])
    shown.ask(FIRST)
    assert shown.kept() == [usual.kept_visual_tokens]
    slider.fill("0.25")
    shown.last.get_by_role("button", name="Ask again, keeping 25%").click()
    shown.wait()
    assert shown.kept() == [fewer.kept_visual_tokens]
    assert shown.answer == fewer.text.lstrip()
    earlier = shown.last.locator(".earlier li")
    assert (earlier.text_content() or "").startswith(f"{len(usual.kept_visual_tokens)} of 144 kept: ")
    # Keys move it by one percent, and a button takes it back.
    slider.press("ArrowRight")
    assert slider.input_value() == "0.26"
    shown.tab.get_by_role("button", name="Default").click()
    assert slider.input_value() == "0.5"


def test_a_second_turn_shows_a_second_image(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    """And the first answer goes back as the server gave it, with the space that is not shown."""
    turns = [asked(FIRST, images[0]), {"role": "assistant", "content": " red"}, asked(SECOND, images[1])]
    second = tiny_pipeline.generate(messages=turns)
    red = {"choices": [{"delta": {"content": " red"}, "finish_reason": "stop"}]}
    shown.tab.route("**/v1/chat/completions", lambda route: stream(route, red), times=1)
    shown.attach(images[0])
    shown.ask(FIRST)
    assert shown.answer == "red"
    shown.attach(images[1])
    shown.ask(SECOND)
    assert shown.answer == second.text.lstrip()
    first_kept, second_kept = shown.kept()
    assert first_kept + [144 + token for token in second_kept] == second.kept_visual_tokens


def test_starting_over_forgets_what_was_asked(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    shown.attach(images[0])
    shown.ask(FIRST)
    shown.tab.get_by_role("button", name="Start over").click()
    assert shown.tab.locator(".turn").count() == 0
    shown.attach(images[1])
    shown.ask(FIRST)
    assert shown.answer == tiny_pipeline.generate(messages=[asked(FIRST, images[1])]).text.lstrip()


def test_images_are_dropped_pasted_and_taken_back(shown: Shown, images: list[Path], tiny_pipeline: Pipeline) -> None:
    content = list(images[0].read_bytes())
    bring = """([content, event]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(content)], "a.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true, dataTransfer: carried, clipboardData: carried };
        const Kind = event === "drop" ? DragEvent : ClipboardEvent;
        document.body.dispatchEvent(new Kind(event, options));
    }"""
    remove = shown.tab.get_by_role("button", name="Remove a.png")
    shown.tab.evaluate(bring, [content, "drop"])
    remove.click()
    remove.wait_for(state="detached")
    shown.tab.evaluate(bring, [content, "paste"])
    remove.wait_for()
    shown.ask(FIRST)
    assert shown.answer == tiny_pipeline.generate(messages=[asked(FIRST, images[0])]).text.lstrip()


def test_what_the_model_cannot_take_is_refused_by_name(shown: Shown, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"none")
    shown.tab.get_by_role("slider", name="Keep").wait_for()
    shown.tab.locator("#files").set_input_files(clip)
    shown.tab.get_by_role("alert").get_by_text("clip.mp4: this model takes images only.").wait_for()
    assert shown.tab.get_by_role("button", name="Remove").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_phone_needs_no_sideways_scrolling(open_page: OpenPage, images: list[Path], scheme: Any) -> None:
    shown = open_page(size=NARROW, color_scheme=scheme, has_touch=True, is_mobile=True)
    shown.tab.get_by_role("button", name="Camera").wait_for()
    assert shown.fits()
    shown.attach(images[0])
    assert shown.fits()
    shown.ask("Un" + 20 * "break" + "able")
    assert shown.fits()
    shown.last.locator(".view").click()
    assert shown.fits()
    shown.tab.get_by_role("button", name="Close").click()
    assert shown.tab.get_by_role("dialog").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(open_page: OpenPage, scheme: Any) -> None:
    shown = open_page(color_scheme=scheme)
    names = ("paper", "inset", "ink", "quiet", "edge", "accent", "on-accent", "wrong", "bar")
    colors = shown.tab.evaluate(
        """(names) => names.map((name) => {
            document.body.style.color = `var(--${name})`;
            return getComputedStyle(document.body).color.match(/\\d+/g).map(Number);
        })""",
        names,
    )
    light = {name: _luminance(color) for name, color in zip(names, colors, strict=True)}
    text = [(name, ground) for name in ("ink", "quiet", "accent", "wrong") for ground in ("paper", "inset")]
    for name, ground in [*text, ("on-accent", "accent")]:
        assert _contrast(light[name], light[ground]) >= 4.5, (name, ground)
    for name in ("edge", "bar"):
        assert _contrast(light[name], light["paper"]) >= 3, name


def _luminance(color: list[int]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_every_cut_has_its_own_pictures(shown: Shown) -> None:
    """Of a bundle with two cuts, and an image of two views, one of which is half padding."""
    pixel = "data:image/png;base64," + (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    views = [
        {"image": pixel, "rows": 2, "columns": 2, "tokens": [0, 1, 2, 3]},
        {"image": pixel, "rows": 1, "columns": 3, "tokens": [-1, 4, 4]},
    ]
    cuts = [
        {"layer": 1, "kept_visual_tokens": [1, 2, 4], "pruned_length": 5},
        {"layer": 3, "kept_visual_tokens": [2], "pruned_length": 3},
    ]
    told = {
        "prompt_tokens": 7,
        "visual_tokens": 5,
        "reused_tokens": 2,
        "cuts": cuts,
        "notes": ["a note"],
        "views": views,
    }
    chunks = [
        {"choices": [{"delta": {"content": "yes"}, "finish_reason": None}], "fastv": told},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "fastv": {"timings_ms": {"prefix": 1.0, "ttft": 2.0}}},
    ]
    shown.tab.route("**/v1/chat/completions", lambda route: stream(route, *chunks))
    shown.ask(FIRST)
    assert shown.kept() == [[1, 2], [1, 2], [2], []]
    names = [view.get_attribute("aria-label") for view in shown.last.locator(".view").all()]
    assert names[1] == "Layer 1, view 2: 2 of 2 patches kept. Enlarge."
    assert shown.last.locator(".cut p").all_inner_texts() == ["Layer 1\n3 of 5 kept", "Layer 3\n1 of 5 kept"]
    assert shown.last.locator(".remarks").inner_text() == "a note"


def stream(route: Route, *chunks: Any) -> None:
    """Answer a request with a stream of these."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    route.fulfill(body=body, content_type="text/event-stream")


def test_a_bundle_for_videos_that_does_not_prune(open_page: OpenPage, tmp_path: Path) -> None:
    """There is no slider, and a clip goes out as it is."""
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a clip")
    told = {"prompt_tokens": 9, "visual_tokens": 4, "reused_tokens": 0, "cuts": [], "notes": []}
    bodies = []

    def answer(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        stream(route, {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}], "fastv": told})

    model = {"id": "whole", "fastv": {"cuts": [], "keep": 1.0, "prunes": False, "takes_videos": True}}
    models = {"object": "list", "data": [model]}
    shown = open_page(prepare=lambda tab: tab.route("**/v1/models", lambda route: route.fulfill(json=models)))
    shown.tab.route("**/v1/chat/completions", answer)
    shown.tab.get_by_text("whole, not pruned").wait_for()
    assert shown.tab.get_by_role("slider").count() == 0
    shown.attach(clip)
    shown.ask(FIRST)
    video = {"url": f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"}
    content = [{"type": "video_url", "video_url": video}, {"type": "text", "text": FIRST}]
    assert bodies[0]["messages"] == [{"role": "user", "content": content}]
    assert "keep" not in bodies[0]


def test_a_large_file_is_made_smaller_and_says_so(shown: Shown, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (700, 2100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large, compress_level=0)
    assert large.stat().st_size > 4 * 2**20
    bodies = []

    def answer(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        stream(route, {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]})

    shown.tab.route("**/v1/chat/completions", answer)
    shown.attach(large)
    shown.tab.get_by_text("large.png, sent as 2048 × 683").wait_for()
    shown.ask(FIRST)
    head, _, data = bodies[0]["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2048, 683)
