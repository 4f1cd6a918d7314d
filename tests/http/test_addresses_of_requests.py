"""What the addresses in a request lead to: data in the request, files of named directories, hosts of the internet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fastv_runtime import Pipeline
from fastv_runtime.config.layouts import FramesVideo
from fastv_runtime.errors import UserError
from fastv_runtime.preprocessing import addresses
from fastv_runtime.preprocessing.videos.decoding import open_video
from fastv_runtime.serving.errors import ApiError
from fastv_runtime.serving.openai import media
from fastv_runtime.serving.openai.media import Media
from fastv_runtime.serving.settings import ServeSettings
from tests.conftest import noise_image
from tests.http.asking import IMAGE, MODEL, QUESTION, ask, asked, data_address, png, refusal, said, served, shown
from tests.http.conftest import Serving
from tests.runtime.test_video import video


class Site(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def expected(tiny_pipeline: Pipeline) -> str:
    return tiny_pipeline.generate(IMAGE, QUESTION, max_new_tokens=4).text


def see(serving: Serving, address: str, **settings: Any) -> httpx.Response:
    return ask(serving.app(**settings), asked(shown(address), said(QUESTION), max_tokens=4))


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_http_is_opened_where_that_is_allowed(serving: Serving, site: str, expected: str) -> None:
    assert "opens no http addresses" in refusal(see(serving, f"{site}/a.png"))["message"]
    assert Site.asked == 0
    assert text_of(see(serving, f"{site}/a.png", allow_private_url=True, allow_url=True)) == expected
    assert Site.asked == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"])
def test_the_servers_own_networks_are_not_opened_for_others(serving: Serving, site: str, host: str) -> None:
    """Whatever they are called: the address that was connected to decides."""
    address = site.replace("127.0.0.1", host)
    message = refusal(see(serving, f"{address}/a.png", allow_url=True))["message"]
    assert "own network" in message or "cannot be fetched" in message
    assert Site.asked == 0, "a request was sent"


def test_tls_does_not_begin_with_the_servers_own_networks(
    serving: Serving, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(see(serving, f"{site.replace('http:', 'https:')}/a.png", allow_url=True))["message"]
    assert "own network" in message
    # By this check alone: without it the same request speaks TLS to a server that does not.
    monkeypatch.setattr(addresses._PublicConnection, "connect", addresses.HTTPConnection.connect)
    message = refusal(see(serving, f"{site.replace('http:', 'https:')}/a.png", allow_url=True))["message"]
    assert "SSL" in message


def test_slow_servers_elsewhere_hold_nobody_else_up(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    go, waiting = threading.Event(), threading.Semaphore(0)

    def slow(address: str, name: str, **asked: Any) -> bytes:
        if address.startswith("http"):
            waiting.release()
            assert go.wait(20)
            raise UserError("too slow")
        return addresses.fetch(address, name, **asked)

    monkeypatch.setattr(media, "fetch", slow)
    app = serving.app(allow_url=True)
    with served(app) as at:

        def ask_for(address: str) -> httpx.Response:
            body = asked(shown(address), said(QUESTION), max_tokens=4)
            return httpx.post(f"{at}/v1/chat/completions", json=body, timeout=30)

        with ThreadPoolExecutor(12) as pool:
            slow_ones = [pool.submit(ask_for, "http://a.example/a.png") for _ in range(12)]
            assert all(waiting.acquire(timeout=20) for _ in slow_ones)
            try:
                assert text_of(ask_for(data_address(png()))) == expected
            finally:
                go.set()
            assert {each.result().status_code for each in slow_ones} == {400}


def test_no_redirect_leads_to_files(serving: Serving, site: str) -> None:
    response = see(serving, f"{site}/moved", allow_url=True, allow_private_url=True)
    assert "not allowed" in refusal(response)["message"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an image and ways out of it; the image beside it is not to be seen."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a b.png").write_bytes(png())
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "open" / "out.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "open" / "in.png").symlink_to(tmp_path / "open" / "a b.png")
    (tmp_path / "open" / "loop").symlink_to(tmp_path / "open" / "loop")
    (tmp_path / "open" / "up").symlink_to(tmp_path)
    (tmp_path / "open-too").mkdir()
    (tmp_path / "open-too" / "a.png").write_bytes(png())
    (tmp_path / "link").symlink_to(tmp_path / "open")
    return tmp_path


@pytest.mark.parametrize("name", ["a%20b.png", "in.png", "./x/../a%20b.png".replace("x/../", "")])
def test_files_of_a_named_directory_are_opened(serving: Serving, folder: Path, expected: str, name: str) -> None:
    for host in ("", "localhost"):
        address = f"file://{host}{folder}/open/{name}"
        assert text_of(see(serving, address, allow_files=(folder / "open",))) == expected
        assert text_of(see(serving, address, allow_files=(folder / "nowhere", folder / "link"))) == expected


@pytest.mark.parametrize(
    "path",
    [
        "open/out.png",
        "open/../secret.png",
        "open/%2e%2e/secret.png",
        "open/up/secret.png",
        "open-too/a.png",
        "open/loop",
        "open/none.png",
        "open",
        "open/a%00.png",
        "secret.png",
        "open/a%20b.png?x",
        "open/a%20b.png#x",
    ],
)
def test_no_other_file_is(serving: Serving, folder: Path, path: str) -> None:
    """Nor is it said whether there is one."""
    error = refusal(see(serving, f"file://{folder}/{path}", allow_files=(folder / "open",)))
    assert error["message"] == "messages.0.content.0: no file in a directory that this server opens files of"
    assert error["code"] == "address_not_allowed"


def test_other_hosts_files_are_none_of_ours(serving: Serving, folder: Path) -> None:
    response = see(serving, f"file://other{folder}/open/a%20b.png", allow_files=(folder / "open",))
    assert refusal(response)["code"] == "address_not_allowed"


FRAMES = FramesVideo.model_construct(frames=4)
"""Of a layout of videos only how many frames it samples is read here."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    file.write_bytes(video("mp4", "mpeg4", [np.asarray(noise_image(index)) for index in range(9)]))
    return file


def test_videos_are_sampled_wherever_they_come_from(clip: Path) -> None:
    expected = open_video(clip, 4)
    opened = Media(ServeSettings(model_name=MODEL, allow_files=(clip.parent,)), FRAMES)
    for address in (data_address(clip.read_bytes(), "video/mp4"), clip.as_uri()):
        found = opened.video(address, "messages.0.content.0")
        assert found.indices == expected.indices == (0, 3, 5, 8)
        for one, other in zip(found.frames, expected.frames, strict=True):
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_errors_of_a_video_name_no_file_of_the_server(clip: Path) -> None:
    half = clip.parent / "half.mp4"
    half.write_bytes(clip.read_bytes()[:700])
    opened = Media(ServeSettings(model_name=MODEL, allow_files=(clip.parent,)), FRAMES)
    for address in (data_address(half.read_bytes(), "video/mp4"), half.as_uri()):
        with pytest.raises(ApiError) as caught:
            opened.video(address, "messages.0.content.0")
        assert caught.value.status == 400
        assert "/" not in str(caught.value).replace("and/or", "")
        assert str(caught.value).startswith("messages.0.content.0: ")


def test_a_model_without_videos_takes_none(serving: Serving, clip: Path) -> None:
    part = {"type": "video_url", "video_url": {"url": data_address(clip.read_bytes(), "video/mp4")}}
    assert "takes no videos" in refusal(ask(serving.app(), asked(part, said(QUESTION))))["message"]
