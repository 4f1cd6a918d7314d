"""A conversation: each question knows of those before it, and costs what is new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.arguments import VideoInput, check_text, image_list, video_list
from fastv_runtime.generation.calls.streaming import Generation
from fastv_runtime.preprocessing.images.loading import ImageInput
from fastv_runtime.preprocessing.visual import Visual

Stream = Callable[[Sequence[dict[str, Any]]], Generation]
"""From messages to the answer to the last of them."""
Show = Callable[[Any], tuple[Visual, list[str]]]
"""From an image or a video to what the graphs take, and what the caller should know of it."""


class ChatSession:
    """Turns of one conversation, as `fastv_runtime.Pipeline.chat` begins it.

    A question and its answer become part of it once the answer has been read to its end, and is not empty; one that was
    closed, dropped or failed leaves no trace. Images and videos are read when they are shown, and not again.

    stream: makes an answer. show_image, show_video: make ready what is shown. whole: a context in which an answer is
    read to its end before it is anybody else's turn.
    """

    def __init__(
        self,
        stream: Stream,
        show_image: Show,
        show_video: Show,
        whole: Callable[[], AbstractContextManager[None]],
        system: str | None = None,
    ):
        if system is not None:
            check_text("`system`", system)
        self._stream = stream
        self._show = {"image": show_image, "video": show_video}
        self._whole = whole
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.clear()

    def clear(self) -> None:
        """Start over: what was said and shown is forgotten, but for the system message."""
        self._turns: list[dict[str, Any]] = list(self._system)
        self._waiting: tuple[dict[str, Any], Generation] | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was said so far, as `Pipeline.generate` takes messages; images and videos as the graphs take them."""
        if self._waiting is not None:
            asked, generation = self._waiting
            said = generation.answer.text.strip()
            if generation.answer.finish_reason and said:
                self._turns += [asked, {"role": "assistant", "content": said}]
                self._waiting = None
        return [{**turn, "content": copy(turn["content"])} for turn in self._turns]

    def ask(
        self,
        prompt: str,
        images: ImageInput | Iterable[ImageInput] = (),
        videos: VideoInput | Iterable[VideoInput] = (),
    ) -> Answer:
        """The whole answer; arguments and errors as for `stream`."""
        asked, notes = self._asked(prompt, images, videos)
        with self._whole():
            generation = self._begin(asked, notes)
            for _ in generation:
                pass
        return generation.answer

    def stream(
        self,
        prompt: str,
        images: ImageInput | Iterable[ImageInput] = (),
        videos: VideoInput | Iterable[VideoInput] = (),
    ) -> Generation:
        """The next turn. images, videos: that come with it, before its text; those of earlier turns are still seen.

        Raises UserError as `Pipeline.stream`; the conversation is then as it was.
        """
        return self._begin(*self._asked(prompt, images, videos))

    def _asked(
        self,
        prompt: str,
        images: ImageInput | Iterable[ImageInput],
        videos: VideoInput | Iterable[VideoInput],
    ) -> tuple[dict[str, Any], list[str]]:
        """The user's message, and what the caller should know of what it shows."""
        check_text("the prompt", prompt)
        parts: list[dict[str, Any]] = []
        notes: list[str] = []
        for kind, given in (("image", image_list(images)), ("video", video_list(videos))):
            for each in given:
                visual, said = self._show[kind](each)
                parts.append({"type": kind, kind: visual})
                notes += said
        return {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}, notes

    def _begin(self, asked: dict[str, Any], notes: list[str]) -> Generation:
        generation = self._stream([*self.messages, asked])
        generation.answer.notes[:0] = notes
        self._waiting = asked, generation
        return generation
