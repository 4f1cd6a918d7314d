"""A loaded bundle: graphs on a backend, and what makes prompts for them. What every slot shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.bundle import PROCESSOR, Bundle
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.config.lengths import capacity
from fastv_runtime.generation.calls.arguments import VideoInput, check_settings, path_of
from fastv_runtime.generation.calls.question import GenerationInput
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.feature_cache import FeatureCache
from fastv_runtime.generation.grammar import GrammarTokenizer
from fastv_runtime.generation.prompts.positions import position_ids
from fastv_runtime.generation.prompts.prompt import Prompt, PromptBuilder
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.digest import visual_digest
from fastv_runtime.preprocessing.images.aspect import with_aspect
from fastv_runtime.preprocessing.images.loading import ImageInput, as_image
from fastv_runtime.preprocessing.videos.decoding import Video, open_video

if TYPE_CHECKING:
    from jaxtyping import Int


@dataclass(frozen=True)
class PreparedPrompt:
    """A question as the graphs take it: pixels and token ids, nothing computed yet."""

    visuals: tuple[Visual, ...]
    """As they were given: images, then videos."""
    prompt: Prompt
    positions: Int[np.ndarray, "axes S"]
    notes: tuple[str, ...]
    """Of what was shown."""
    digests: tuple[str, ...]
    """Of the visuals: equal ones have equal features."""

    @property
    def length(self) -> int:
        """S."""
        return self.prompt.token_ids.size

    @property
    def visual(self) -> int:
        """Visual tokens."""
        return int(self.prompt.visual.sum())

    @property
    def text(self) -> int:
        """Other tokens."""
        return self.length - self.visual

    @property
    def first_rows(self) -> dict[int, str]:
        """Digest of each visual, by the row of its first token."""
        starts = self.prompt.starts(self.visuals)
        return {first[0]: digest for first, digest in zip(starts, self.digests, strict=True)}

    def whole_visuals(self, start: int) -> int:
        """`start`, or the first row of the visual that it would cut in two: a tower makes all of one."""
        for first, visual in zip(self.prompt.starts(self.visuals), self.visuals, strict=True):
            if first[0] < start < first[-1] + visual.runs[-1].tokens:
                return first[0]
        return start

    @property
    def shown(self) -> list[Visual]:
        """The visuals in the order of the prompt."""
        return [self.visuals[index] for index in self.prompt.order]


class Model:
    """A bundle's graphs, loaded once, however many slots run them.

    features: bytes of image features that are kept, for images that are shown again; 0 keeps none. Other arguments as
    for `fastv_runtime.Pipeline`. `prepare` may be called in any thread, whatever the graphs are at.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        aspect: Aspect | None = None,
        backend: str | None = None,
        device: str | None = None,
        compute: str | None = None,
        model_cache: str | Path | None = None,
        features: int = 0,
    ):
        check_settings(threads, aspect)
        manifest = bundle.manifest
        vision, video = manifest.vision, manifest.video
        if aspect is not None:
            vision, video = with_aspect(vision, video, aspect)
        self.bundle = bundle
        self.manifest = manifest
        self.capacity = capacity(manifest.plan)
        cache = None if model_cache is None else path_of("`model_cache`", model_cache)
        self.backend = open_backend(bundle, backend, device, threads=threads, compute=compute, model_cache=cache)
        self.embedding = bundle.embedding()
        self.features = FeatureCache(features)
        self.prompts = PromptBuilder(bundle.file(PROCESSOR), manifest.tokens, manifest.decoder.vocab_size)
        self._images = load_images(bundle.file(PROCESSOR), vision)
        self._videos = None if video is None else load_videos(bundle.file(PROCESSOR), video)

    def prepare(self, question: GenerationInput, clock: Clock) -> PreparedPrompt:
        """Preprocess what is shown and write the prompt. Raises UserError for what cannot be used."""
        with clock("preprocess"):
            images, videos = map(self.show_image, question.images), [self.show_video(each) for each in question.videos]
            visuals = [visual for visual, _ in (*images, *videos)]
            build = (
                partial(self.prompts.build, question.text, system=question.system)
                if question.turns is None
                else partial(self.prompts.build_conversation, question.turns)
            )
            prompt = build(visuals=visuals)
            positions = position_ids(self.manifest.decoder.position_axes, prompt.token_ids.size, prompt.runs)
            digests = tuple(map(visual_digest, visuals))
        notes = tuple(note for _, notes in videos for note in notes)
        return PreparedPrompt(tuple(visuals), prompt, positions, notes, digests)

    @cached_property
    def grammars(self) -> GrammarTokenizer:
        """What matches answers to grammars, made when it is first asked for: a second for 50,000 tokens."""
        tokenizer = self.prompts.tokenizer.backend_tokenizer
        return GrammarTokenizer(tokenizer, self.manifest.decoder.vocab_size, self.manifest.tokens.stop)

    def show_image(self, image: ImageInput | Visual) -> tuple[Visual, list[str]]:
        """An image as the graphs take it, and what the caller should know of it. Raises UserError."""
        return image if isinstance(image, Visual) else self._images(as_image(image)), []

    def show_video(self, video: VideoInput | Visual) -> tuple[Visual, list[str]]:
        """A video likewise. Raises UserError, also where the model takes none."""
        if isinstance(video, Visual):
            return video, []
        layout = self.manifest.video
        if self._videos is None or layout is None:
            raise no_videos(self.manifest.family)
        sampled = video if isinstance(video, Video) else open_video(video, layout.frames)
        return self._videos(sampled), list(sampled.notes)
