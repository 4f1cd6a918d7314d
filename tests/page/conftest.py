"""The page in a browser, against the server itself."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.app import create_app
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Scheduler
from fastv_runtime.serving.settings import ServeSettings

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = (1280, 900), (320, 640)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app's address while it is served."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@dataclass
class Serving:
    """A model, what runs it, and addresses of apps with other settings."""

    model: Model
    scheduler: Scheduler

    def app(self, **settings: Any) -> FastAPI:
        return create_app(self.scheduler, self.model, ServeSettings(model_name="tiny", **settings))


@pytest.fixture(scope="package")
def serving(tiny_bundle: Path) -> Iterator[Serving]:
    model = Model(Bundle.open(tiny_bundle), threads=1)
    scheduler = Scheduler(model, slots=1, metrics=Metrics())
    yield Serving(model, scheduler)
    scheduler.stop(1)


@pytest.fixture(scope="package")
def address(serving: Serving) -> Iterator[str]:
    with served(serving.app()) as at:
        yield at


# Of the package, not of the session: as long as it lives, no other test of this process may run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Shown:
    """The page in one tab, as a person uses it: by what is written on it."""

    tab: Page
    failures: list[str] = field(default_factory=list)
    """Of scripts, and what the server's policy forbade."""
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.tab.on("pageerror", lambda error: self.failures.append(str(error)))
        self.tab.on("console", lambda said: self.failures.append(said.text) if said.type == "error" else None)
        self.tab.on("request", lambda request: self.requests.append(request.url))

    @property
    def question(self) -> Locator:
        return self.tab.get_by_role("textbox", name="Question")

    @property
    def last(self) -> Locator:
        """The last turn."""
        return self.tab.locator(".turn").last

    def attach(self, *images: Path) -> None:
        self.tab.locator("#files").set_input_files(list(images))
        self.tab.get_by_role("button", name="Remove").nth(len(images) - 1).wait_for()

    def ask(self, text: str) -> None:
        """Ask, and wait for the whole answer."""
        turns = self.tab.locator(".turn").count()
        self.question.fill(text)
        self.question.press("Enter")
        self.tab.locator(".turn").nth(turns).wait_for()
        self.wait()

    def wait(self) -> None:
        self.tab.locator(".turn[aria-busy=true]").wait_for(state="detached")

    @property
    def answer(self) -> str:
        return self.last.locator(".answer").text_content() or ""

    def kept(self) -> list[list[int]]:
        """Numbers of the patches that the last turn shows as they are, row by row, of each of its pictures."""
        found = []
        for view in self.last.locator(".view").all():
            _, _, columns, rows = map(int, (view.locator("svg").get_attribute("viewBox") or "").split())
            cells = (view.locator(".dropped").get_attribute("d") or "").split("M")[1:]
            places = [tuple(map(int, cell.partition("h")[0].split())) for cell in cells]
            dropped = {row * columns + column for column, row in places}
            assert len(dropped) == len(cells)
            found.append([cell for cell in range(rows * columns) if cell not in dropped])
        return found

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        return bool(self.tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


OpenPage = Callable[..., Shown]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[OpenPage]:
    """Opens the page at an address, or the usual one. Afterwards: no script failed, and nothing left its origin."""
    opened: list[tuple[str, Shown]] = []

    def show(
        at: str = address,
        size: tuple[int, int] = WIDE,
        prepare: Callable[[Page], Any] = lambda tab: None,
        **options: Any,
    ) -> Shown:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_default_timeout(20_000)
        shown = Shown(context.new_page())
        shown.watch()
        opened.append((at, shown))
        prepare(shown.tab)
        shown.tab.goto(at)
        return shown

    yield show
    for at, shown in opened:
        shown.tab.context.close()
        # A refused request is written to the console too.
        assert [failure for failure in shown.failures if "Failed to load resource" not in failure] == []
        assert [url for url in shown.requests if not url.startswith((at, "data:"))] == []


@pytest.fixture
def shown(open_page: OpenPage) -> Shown:
    return open_page()
