"""A conversation at the keyboard: questions that know of what was said before them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fastv_runtime.cli.answers import print_dim
from fastv_runtime.cli.sources import read_line, text_of
from fastv_runtime.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fastv_runtime.generation.calls.answer import Answer
    from fastv_runtime.generation.calls.chat import ChatSession
    from fastv_runtime.generation.calls.streaming import Generation
    from fastv_runtime.preprocessing.images.loading import ImageInput
    from fastv_runtime.preprocessing.videos.decoding import Video

HELP = "ask something; /image FILE shows one more image, /clear starts over, Ctrl-D ends"
PROMPT = "> "


class Chat:
    """Every question is a turn of one conversation.

    answer: reads and prints one. images, videos: come before the first question, also after /clear.
    """

    def __init__(
        self,
        session: ChatSession,
        answer: Callable[[Generation], Answer],
        open_image: Callable[[str], Image.Image],
        complain: Callable[[str], None],
        *,
        images: Sequence[ImageInput] = (),
        videos: Sequence[Video] = (),
    ):
        self._session = session
        self._answer = answer
        self._open_image = open_image
        self._complain = complain
        self._first = list(images), list(videos)
        self._clear()

    def run(self) -> None:
        """Until the end of the standard input. What cannot be used is said, and the conversation goes on."""
        print_dim(HELP)
        while True:
            try:
                line = _line()
                if line is None:
                    return
                if line:
                    self._one(line)
            except UserError as error:
                self._complain(str(error))
            except KeyboardInterrupt:
                print()
                print_dim("interrupted: that question and its answer are forgotten")

    def _one(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if not line.startswith("/"):
            self._ask(line)
        elif word == "/clear" and not rest:
            self._clear()
        elif word == "/image" and rest.strip():
            self._images.append(self._open_image(rest.strip()))
        else:
            raise UserError(f"{line}: not known: {HELP}")

    def _clear(self) -> None:
        self._session.clear()
        self._images, self._videos = list(self._first[0]), list(self._first[1])

    def _ask(self, question: str) -> None:
        try:
            answer = self._answer(self._session.stream(question, self._images, self._videos))
        except UserError as error:
            if all(turn["role"] == "system" for turn in self._session.messages):
                raise
            raise UserError(f"{error} (or start over: /clear)") from None
        # An empty answer is no message: the question is then forgotten, and what it showed stays for the next.
        if answer.text.strip():
            self._images, self._videos = [], []


def _line() -> str | None:
    """The next line without blanks around it; None at the end."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 (edits the line that is typed, and knows those before)
        try:
            return input(PROMPT).strip()
        except EOFError:
            print()
            return None
    data = read_line()
    return text_of(data, "the standard input").strip() if data else None
