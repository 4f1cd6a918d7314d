"""The public API: images and a question in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tokenizers.decoders import DecodeStream

from fastv_runtime.backends.base import Backend
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.bundle import PROCESSOR, Bundle
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.config.lengths import capacity, kept_count, pruned_length
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoder import Decoder, load_decoder
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.kept_image import draw_kept, numbered
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.positions import position_ids
from fastv_runtime.generation.prompt import PromptBuilder
from fastv_runtime.generation.sampling import Sampler, Sampling
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.images.aspect import with_aspect
from fastv_runtime.preprocessing.videos.decoding import Video

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass
class Answer:
    """One answer and what it took. `kept_visual_tokens` are ascending indices into the prompt's visual tokens."""

    prompt_tokens: int
    visual_tokens: int
    kept_visual_tokens: list[int]
    pruned_length: int
    backend: str
    notes: list[str]
    """What the caller should know: that nothing could be pruned, say."""
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    """Generated tokens, the stop token included."""
    finish_reason: str = ""
    """`stop` (a stop token) or `length` (max_new_tokens)."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Wall-clock milliseconds per stage; `ttft` up to the first token; `decode_per_token` the mean of the rest."""


class Generation(Iterator[str]):
    """An answer as it is being made: iterate for pieces of text, then read `answer`.

    Pieces never split a character. Starting another generation on the same pipeline ends this one.
    """

    def __init__(self, pieces: Iterator[str], answer: Answer, clock: Clock, visuals: Sequence[Visual]):
        self._pieces = pieces
        self._clock = clock
        self._visuals = visuals
        self.answer = answer

    def timings_ms(self) -> dict[str, float]:
        """Timings so far, in the terms of `Answer.timings_ms`."""
        return self._clock.timings()

    def draw_kept(self) -> Image.Image:
        """The images as the model saw them: patches whose visual tokens were dropped are dimmed, kept ones framed."""
        return draw_kept(numbered(self._visuals), self.answer.kept_visual_tokens)

    def __next__(self) -> str:
        return next(self._pieces)


class Pipeline:
    """A loaded bundle. Buffers are allocated once, here; one generation at a time.

    threads: of one operator; None means one per physical core that the process may use.
    aspect: `crop` or `pad`, of images that the model sees at one size; None means what the checkpoint says.
    backend: what executes the graphs: `ort` (ONNX Runtime) or `trt` (TensorRT, with the engines that fastv-build made).
    device: `cpu` or `cuda`; None means the backend's own: `cpu` for `ort`, `cuda` for `trt`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        aspect: Aspect | None = None,
        backend: str = "ort",
        device: str | None = None,
    ):
        manifest = bundle.manifest
        vision, video = manifest.vision, manifest.video
        if aspect is not None:
            vision, video = with_aspect(vision, video, aspect)
        self.bundle = bundle
        self.capacity = capacity(manifest.plan)
        self._backend = open_backend(bundle, backend, device, threads=threads)
        self._decoder = load_decoder(manifest, self._backend, self.capacity)
        self._embedding = bundle.embedding()
        self._encoder = Encoder(manifest.graphs, self._backend, self._decoder)
        self._prompts = PromptBuilder(bundle.file(PROCESSOR), manifest.tokens, manifest.decoder.vocab_size)
        self._images = load_images(bundle.file(PROCESSOR), vision)
        self._videos = None if video is None else load_videos(bundle.file(PROCESSOR), video)
        self._current: object | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        aspect: Aspect | None = None,
        backend: str = "ort",
        device: str | None = None,
        check_hashes: bool = False,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pipeline:
        """Open the bundle at `path` as `Bundle.open` does, and load its graphs; other arguments as for the class.
        Raises UserError."""
        bundle = Bundle.open(path, check_hashes=check_hashes, public_key=public_key, progress=progress)
        return cls(bundle, threads=threads, aspect=aspect, backend=backend, device=device)

    def generate(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        length: str | None = None,
        ignore_stop: bool = False,
        videos: Sequence[Video] = (),
    ) -> Answer:
        """The whole answer; arguments as for `stream`."""
        generation = self.stream(
            images,
            prompt,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            length=length,
            ignore_stop=ignore_stop,
            videos=videos,
        )
        for _ in generation:
            pass
        return generation.answer

    def stream(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        length: str | None = None,
        ignore_stop: bool = False,
        videos: Sequence[Video] = (),
    ) -> Generation:
        """Prefill now; decode as the result is iterated.

        images: in the order in which the prompt speaks of them; none for a text-only prompt.
        max_new_tokens: None means what the checkpoint says, if the plan supports it, else what the plan supports.
        sampling: None means greedy.
        length: `fixed` or `exact` pruned length; None means the plan's.
        ignore_stop: go on past stop tokens (for measuring).
        videos: sampled frames, for models that take videos.
        Raises UserError for a prompt that the plan does not support.
        """
        plan, defaults = self.bundle.manifest.plan, self.bundle.manifest.generation
        if length not in (None, "fixed", "exact"):
            raise UserError(f"`length` {length!r}: must be 'fixed' or 'exact'")
        limit = max_new_tokens
        if limit is None:
            limit = min(plan.max_new_tokens, defaults.max_new_tokens or plan.max_new_tokens)
        if not 1 <= limit <= plan.max_new_tokens:
            raise UserError(
                f"`max_new_tokens` {limit}: this bundle supports 1 to {plan.max_new_tokens}: "
                "export with a larger max_new_tokens"
            )
        clock = Clock(settle=self._backend.synchronize)
        with clock("preprocess"):
            visuals = [*map(self._images, images), *map(self._video, videos)]
            built = self._prompts.build(prompt, visuals)
            visual = int(built.visual.sum())
            total = built.token_ids.size
            pruned = pruned_length(plan, total - visual, visual, length or plan.length, self.capacity)
            positions = position_ids(self.bundle.manifest.decoder.position_axes, total, built.runs)
        self._current = token = object()
        self._embed(built.token_ids)
        for buffer in self._decoder.deepstack:
            buffer.rows(0, total).zero()
        with clock("vision"):
            for each, starts in zip(visuals, built.starts(visuals), strict=True):
                self._encoder(each, starts)
        kept = self._decoder.prefill(positions, built.visual, pruned, clock)
        answer = Answer(
            prompt_tokens=total,
            visual_tokens=visual,
            kept_visual_tokens=(np.cumsum(built.visual) - 1)[kept[built.visual[kept]]].tolist(),
            pruned_length=pruned,
            backend=self._backend.name,
            notes=[*(note for video in videos for note in video.notes), *_notes(plan, total, visual, pruned)],
        )
        sampling = sampling or Sampling()
        stop = self.bundle.manifest.tokens.stop
        rules = LogitRules(defaults, built.token_ids, stop, sampling.repetition_penalty)
        pieces = self._decode(token, answer, limit, Sampler(sampling), rules, ignore_stop, clock)
        return Generation(pieces, answer, clock, [visuals[index] for index in built.order])

    @property
    def backend(self) -> Backend:
        """What executes the graphs."""
        return self._backend

    @property
    def decoder(self) -> Decoder:
        """The language model and its buffers; using it ends the generation that the pipeline is at."""
        self._current = None
        return self._decoder

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits (fp32) from which the next token is chosen; on the host a view that the next step overwrites."""
        return self._decoder.logits

    def _video(self, video: Video) -> Visual:
        if self._videos is None:
            raise no_videos(self.bundle.manifest.family)
        return self._videos(video)

    def _embed(self, token_ids: np.ndarray) -> None:
        self._decoder.prompt.rows(0, token_ids.size).write(self._embedding[token_ids])

    def _decode(
        self,
        token: object,
        answer: Answer,
        limit: int,
        sampler: Sampler,
        rules: LogitRules,
        ignore_stop: bool,
        clock: Clock,
    ) -> Iterator[str]:
        text = DecodeStream(skip_special_tokens=True)
        backend = self._prompts.tokenizer.backend_tokenizer
        stop = set() if ignore_stop else set(self.bundle.manifest.tokens.stop)
        while True:
            if self._current is not token:
                raise RuntimeError("another generation was started on this pipeline: this one has ended")
            if sampler.greedy and rules.idle:
                picked = self._decoder.token
            else:
                picked = sampler.pick(rules(self._decoder.logits, answer.token_ids))
            answer.token_ids.append(picked)
            clock.token()
            if picked in stop:
                answer.finish_reason = "stop"
            elif len(answer.token_ids) == limit:
                answer.finish_reason = "length"
            piece = text.step(backend, picked)
            if answer.finish_reason:
                # What the stream still holds back (half a character at the length limit) is in the full decode.
                whole = backend.decode(answer.token_ids, skip_special_tokens=True)
                piece = whole[len(answer.text) :]
                answer.timings_ms = clock.timings()
                answer.notes += self._backend.notes
            if piece:
                answer.text += piece
                yield piece
            if answer.finish_reason:
                return
            self._embed(np.asarray([picked]))
            self._decoder.step()


def _notes(plan: Plan, total: int, visual: int, pruned: int) -> list[str]:
    """What would otherwise be a silent no-op, or a silent shortage."""
    if not plan.prunes:
        return ["this bundle does not prune: it was exported without pruning"]
    if visual == 0:
        return ["nothing to prune: the prompt has no image"]
    kept, asked = pruned - (total - visual), kept_count(visual, plan.keep)
    if kept == visual > asked:
        return [f"nothing pruned: the prompt's {total} tokens fit the fixed pruned length"]
    if kept < asked:
        return [
            f"only {kept} of the {asked} visual tokens that keep {plan.keep:g} asks for fit the fixed pruned length: "
            "shorten the text, use `length` exact, or export with a larger max_text"
        ]
    return []
