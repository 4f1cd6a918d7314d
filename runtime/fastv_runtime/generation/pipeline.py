"""The public API: images and a question in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastv_runtime.backends.base import Backend
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.bundle import PROCESSOR, Bundle
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.config.lengths import capacity, kept_count, pruned_length
from fastv_runtime.config.plan import Plan
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.turns import Turns
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoder import Decoder, load_decoder
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.positions import position_ids
from fastv_runtime.generation.prompt import PromptBuilder
from fastv_runtime.generation.sampling import Sampler, Sampling
from fastv_runtime.generation.streaming import Generation, TokenLoop
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.images.aspect import with_aspect
from fastv_runtime.preprocessing.videos.decoding import Video

if TYPE_CHECKING:
    from jaxtyping import Float


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
        self._prompts = PromptBuilder(bundle.file(PROCESSOR), manifest.tokens)
        self._images = load_images(bundle.file(PROCESSOR), vision)
        self._videos = None if video is None else load_videos(bundle.file(PROCESSOR), video)
        self._turns = Turns()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        aspect: Aspect | None = None,
        backend: str = "ort",
        device: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pipeline:
        """Open the bundle at `path`, check its hashes, and load its graphs; arguments as for the class.

        `progress` is called with the number of bytes hashed since its last call. Raises UserError.
        """
        bundle = Bundle.open(path, progress=progress)
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
        """The whole answer, once it is this call's turn; arguments and errors as for `stream`."""
        with self._turns.whole():
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
        with self._turns.taken():
            generation = self._start(images, prompt, videos, limit, sampling or Sampling(), length, ignore_stop)
            self._turns.begun(generation)
        return generation

    def _start(
        self,
        images: Sequence[Image.Image],
        prompt: str,
        videos: Sequence[Video],
        limit: int,
        sampling: Sampling,
        length: str | None,
        ignore_stop: bool,
    ) -> Generation:
        """Fill the buffers up to the first token's logits."""
        manifest = self.bundle.manifest
        plan = manifest.plan
        clock = Clock(settle=self._backend.synchronize)
        with clock("preprocess"):
            visuals = [*map(self._images, images), *map(self._video, videos)]
            built = self._prompts.build(prompt, visuals)
            visual = int(built.visual.sum())
            total = built.token_ids.size
            pruned = pruned_length(plan, total - visual, visual, length or plan.length, self.capacity)
            positions = position_ids(manifest.decoder.position_axes, total, built.runs)
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
        stop = manifest.tokens.stop
        loop = TokenLoop(
            answer,
            self._decoder,
            self._backend,
            self._embed,
            self._prompts.tokenizer.backend_tokenizer,
            Sampler(sampling),
            LogitRules(manifest.generation, built.token_ids, stop, sampling.repetition_penalty),
            frozenset() if ignore_stop else frozenset(stop),
            limit,
            clock,
        )
        return Generation(loop, self._turns, [visuals[index] for index in built.order])

    def close(self) -> None:
        """Free the graphs and buffers, once no other thread is at them; an open stream ends. May be called again.

        What is asked of the pipeline later raises PipelineEndedError.
        """
        with self._turns.lock:
            if not self._turns.closed:
                self._turns.close()
                del self._backend, self._decoder, self._encoder, self._embedding

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def backend(self) -> Backend:
        """What executes the graphs."""
        self._turns.check_open()
        return self._backend

    @property
    def decoder(self) -> Decoder:
        """The language model and its buffers, for measuring; ends the generation that this thread is at.

        Nothing keeps other threads from the buffers meanwhile. Raises PipelineBusyError where one reads a stream.
        """
        with self._turns.taken():
            return self._decoder

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits (fp32) from which the next token is chosen; on the host a view that the next step overwrites."""
        self._turns.check_open()
        return self._decoder.logits

    def _video(self, video: Video) -> Visual:
        if self._videos is None:
            raise no_videos(self.bundle.manifest.family)
        return self._videos(video)

    def _embed(self, token_ids: np.ndarray) -> None:
        self._decoder.prompt.rows(0, token_ids.size).write(self._embedding[token_ids])


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
