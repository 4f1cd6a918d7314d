"""Videos on the command line: what becomes of them, and one clear line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastv_runtime import Pipeline
from fastv_runtime.cli.run import main as fastv_run
from fastv_runtime.preprocessing.videos.decoding import open_video
from tests.conftest import MakeBundle, noise_image
from tests.families.rows.video_llava import TOKENS, write_tiny_video_llava
from tests.runtime.test_video import BAD_VIDEOS, video

FRAMES = [np.asarray(noise_image(index, (64, 48))) for index in range(20)]
ASK = ["--prompt", "What happens?", "--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    path.write_bytes(video("mp4", "mpeg4", FRAMES))
    return path


@pytest.fixture(scope="module")
def video_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    """The tiny Video-LLaVA: 8 frames of 17 tokens unless told otherwise."""
    source = tmp_path_factory.mktemp("checkpoints") / "tiny-video-llava"
    write_tiny_video_llava(source)
    return make_bundle(source, max_text=128, max_new_tokens=32)


class TestAnswers:
    @pytest.mark.parametrize(("arguments", "frames"), [([], 8), (["--frames", "3"], 3)])
    def test_a_video_is_as_many_frames_as_the_bundle_or_the_user_says(
        self,
        video_bundle: Path,
        clip: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        frames: int,
    ) -> None:
        fastv_run([str(video_bundle), "--video", str(clip), *ASK, "--json", *arguments])
        answer = json.loads(capsys.readouterr().out)
        assert answer["visual_tokens"] == frames * (TOKENS + 1)
        pipeline = Pipeline.load(video_bundle, threads=1)
        expected = pipeline.generate([], ASK[1], videos=[open_video(clip, frames)], max_new_tokens=8)
        assert answer["token_ids"] == expected.token_ids

    def test_a_video_with_fewer_frames_is_said(
        self, video_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "short.mp4"
        path.write_bytes(video("mp4", "mpeg4", FRAMES[:3]))
        fastv_run([str(video_bundle), "--video", str(path), *ASK, "--json"])
        captured = capsys.readouterr()
        answer = json.loads(captured.out)
        assert answer["visual_tokens"] == 3 * (TOKENS + 1)
        (note,) = answer["notes"]
        assert note == f"{path}: 8 frames were asked for and the video has 3: each is taken once"
        assert "8 frames were asked for" in " ".join(captured.err.split())

    def test_kept_tokens_are_drawn_on_every_frame(
        self, video_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "kept.png"
        fastv_run([str(video_bundle), "--video", str(clip), "--frames", "3", *ASK, "--show-kept", str(path)])
        assert f"{round(3 * 17 * 0.5)} of {3 * 17} visual tokens kept" in capsys.readouterr().err
        with Image.open(path) as drawn:
            assert drawn.size == (3 * 448 + 2 * 16, 448)

    def test_a_super_image_is_one_image(
        self, tiny_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second, third, fourth = (np.asarray(frame) for frame in open_video(clip, 4).frames)
        sheet = np.vstack([np.hstack([first, second]), np.hstack([third, fourth])])
        Image.fromarray(sheet).save(tmp_path / "sheet.png")
        answers = []
        for arguments in (["--video", str(clip), "--super-image", "2x2"], ["--image", str(tmp_path / "sheet.png")]):
            fastv_run([str(tiny_bundle), *arguments, *ASK, "--json"])
            answers.append(json.loads(capsys.readouterr().out))
        assert answers[0]["token_ids"] == answers[1]["token_ids"]
        assert answers[0]["kept_visual_tokens"] == answers[1]["kept_visual_tokens"]
        assert answers[0]["visual_tokens"] == 144

    def test_a_padded_image_is_seen_whole(
        self, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = noise_image(0, (120, 40))
        image.save(tmp_path / "wide.png")
        clip_mean = (122, 116, 104)
        ImageOps.pad(image, (120, 120), color=clip_mean).save(tmp_path / "square.png")
        kept = {}
        for name, arguments in {"wide": ["--image-aspect", "pad"], "square": []}.items():
            fastv_run([str(tiny_bundle), "--image", str(tmp_path / f"{name}.png"), *arguments, *ASK, "--json"])
            kept[name] = json.loads(capsys.readouterr().out)
        assert kept["wide"]["kept_visual_tokens"] == kept["square"]["kept_visual_tokens"]
        assert kept["wide"]["token_ids"] == kept["square"]["token_ids"]
        fastv_run([str(tiny_bundle), "--image", str(tmp_path / "wide.png"), *ASK, "--json"])
        assert json.loads(capsys.readouterr().out)["kept_visual_tokens"] != kept["wide"]["kept_visual_tokens"]


def _line(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which fastv-run refuses its arguments."""
    with pytest.raises(SystemExit) as caught:
        fastv_run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("fastv-")]
    assert "Traceback" not in captured.err
    return line


class TestErrors:
    @pytest.mark.parametrize("name", BAD_VIDEOS)
    def test_bad_videos(
        self, video_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        data, message = BAD_VIDEOS[name]
        (tmp_path / name).write_bytes(data)
        line = _line([video_bundle, "--video", tmp_path / name, *ASK], capsys)
        assert message in line
        assert str(tmp_path / name) in line

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--frames", "4"], "--frames 4: there is no video to sample: give one with --video"),
            (["--super-image", "2x2"], "--super-image 2x2: there is no video to sample"),
            (["--image-aspect", "pad"], "--image-aspect: there is no image"),
            (["--video", "missing.mp4"], "missing.mp4: no such video"),
            (["--video", "CLIP", "--frames", "0"], "--frames 0: must be a whole number, 1 to 10,000"),
            (["--video", "CLIP", "--super-image", "2"], "--super-image 2: must be rows x columns"),
            (["--video", "CLIP", "--super-image", "2x2", "--frames", "8"], "--frames 8: --super-image 2x2 takes 4"),
            (["--video", "CLIP", "--super-image", "9x9"], "takes 81 frames and the video gives 20"),
            (["--video", "CLIP", "--frames", "20"], "export with a larger --max-text, --max-images or --max-visual"),
            (["--video", "CLIP", "--video", "CLIP"], "larger --max-text, --max-images or --max-visual"),
            (["--video", "CLIP", "--prompt", "<video> <video> which?"], "the prompt has 2 <video> for 1 videos"),
            (["--video", "CLIP", "--prompt", "<image> which?"], "the prompt has 1 <image> for 0 images"),
        ],
    )
    def test_bad_arguments(
        self,
        video_bundle: Path,
        clip: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        message: str,
    ) -> None:
        given = [str(clip) if argument == "CLIP" else argument for argument in arguments]
        asked = [] if "--prompt" in given else ASK
        assert message in _line([video_bundle, *asked, *given], capsys)

    def test_a_model_without_videos_names_the_way_out(
        self, tiny_bundle: Path, clip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = _line([tiny_bundle, "--video", clip, *ASK], capsys)
        assert line.endswith("llava models take no video: put its frames into one image with --super-image ROWSxCOLS")

    def test_a_count_of_images_that_does_not_match_the_prompt(
        self, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        noise_image(0).save(tmp_path / "image.png")
        arguments = [tiny_bundle, "--image", tmp_path / "image.png", "--prompt", "<image> or <image>?"]
        assert "the prompt has 2 <image> for 1 images: write as many" in _line(arguments, capsys)
