"""The public API: images and a question in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastv_runtime.backends.base import Backend
from fastv_runtime.backends.registry import open_backend
from fastv_runtime.config.bundle import PROCESSOR, Bundle
from fastv_runtime.config.io_spec import carries_change
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.config.lengths import capacity
from fastv_runtime.generation.calls.answer import Answer, begun_answer
from fastv_runtime.generation.calls.arguments import VideoInput, check_settings, image_list, path_of, video_list
from fastv_runtime.generation.calls.keep import AskedKeep, Keep, read_keep
from fastv_runtime.generation.calls.question import GenerationInput, answer_limit, check_length, read_question
from fastv_runtime.generation.calls.streaming import Generation, TokenLoop
from fastv_runtime.generation.calls.turns import Turns
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoder import Decoder, load_decoder
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.notes import pruning_notes
from fastv_runtime.generation.positions import position_ids
from fastv_runtime.generation.prompt import PromptBuilder
from fastv_runtime.generation.sampling import Sampler, Sampling, choose_sampling
from fastv_runtime.preprocessing import Visual, load_images, load_videos, no_videos
from fastv_runtime.preprocessing.images.aspect import with_aspect
from fastv_runtime.preprocessing.images.loading import ImageInput, as_image
from fastv_runtime.preprocessing.videos.change import prompt_change
from fastv_runtime.preprocessing.videos.decoding import Video, open_video

if TYPE_CHECKING:
    from jaxtyping import Float


class Pipeline:
    """A loaded bundle. Buffers are allocated once, here; one generation at a time, whoever asks.

    Threads may share a pipeline. `generate` waits until it is its turn. A stream is its reader's until it is read to
    its end, closed or dropped: meanwhile calls from other threads raise PipelineBusyError, and another one from the
    thread that began it ends it. Processes that are forked off must load their own.
    In a `with` block the graphs and buffers are freed at the end, as by `close`.

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
        check_settings(threads, aspect)
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
        check_hashes: bool = False,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pipeline:
        """Open the bundle at `path` as `Bundle.open` does, and load its graphs; other arguments as for the class.
        Raises UserError."""
        bundle = Bundle.open(
            path_of("bundle", path), check_hashes=check_hashes, public_key=public_key, progress=progress
        )
        return cls(bundle, threads=threads, aspect=aspect, backend=backend, device=device)

    def generate(
        self,
        images: ImageInput | Iterable[ImageInput] = (),
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        repetition_penalty: float | None = None,
        length: str | None = None,
        keep: Keep | None = None,
        share: float | None = None,
        ignore_stop: bool = False,
        videos: VideoInput | Iterable[VideoInput] = (),
    ) -> Answer:
        """The whole answer, once it is this call's turn; arguments and errors as for `stream`."""
        with self._turns.whole():
            generation = self.stream(
                images,
                prompt,
                messages=messages,
                system=system,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                repetition_penalty=repetition_penalty,
                length=length,
                keep=keep,
                share=share,
                ignore_stop=ignore_stop,
                videos=videos,
            )
            for _ in generation:
                pass
        return generation.answer

    def stream(
        self,
        images: ImageInput | Iterable[ImageInput] = (),
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        repetition_penalty: float | None = None,
        length: str | None = None,
        keep: Keep | None = None,
        share: float | None = None,
        ignore_stop: bool = False,
        videos: VideoInput | Iterable[VideoInput] = (),
    ) -> Generation:
        """Prefill now; decode as the result is iterated.

        images: one or several, each a path, a file's bytes, an array or a Pillow image, in the order in which the
        prompt speaks of them; none for a text-only prompt.
        prompt: the question. The images come first, unless the prompt has the model's own tokens for them.
        messages: in place of a prompt, a conversation that ends with the user's message, rendered by the checkpoint's
        chat template: [{"role": "user", "content": text or parts}, ...] with the roles system, user and assistant. A
        part is {"type": "text", "text": ...}, {"type": "image", "image": ...} or {"type": "video", "video": ...}; one
        without an image or video takes the next of `images` or `videos`.
        system: a message that stands before the prompt.
        max_new_tokens: None means what the checkpoint says, if the plan supports it, else what the plan supports.
        sampling: None means greedy, or what the keywords say: temperature, top_k, top_p, seed and repetition_penalty
        are those of `Sampling`.
        length: `fixed` or `exact` pruned length; None means the plan's.
        keep: fraction of visual tokens kept, above 0 and at most 1, as far as the buffers go; None means the plan's,
        `auto` the plan's `share`, or 0.9 where it has none.
        share: keep as few visual tokens as hold this share of attention, above 0 and below 1, and `keep` at most.
        ignore_stop: go on past stop tokens (for measuring).
        videos: one or several, each sampled frames (`open_video`) or a path, for models that take videos.
        Raises UserError for what cannot be used or what the plan does not support, PipelineBusyError while another
        thread reads a stream of this pipeline, PipelineEndedError after `close`.
        """
        limit = answer_limit(max_new_tokens, self.bundle.manifest)
        check_length(length)
        asked = read_keep(self.bundle.manifest.plan, keep, share)
        sampling = choose_sampling(sampling, temperature, top_k, top_p, seed, repetition_penalty)
        question = read_question(prompt, messages, system, image_list(images), video_list(videos))
        with self._turns.taken():
            generation = self._start(question, limit, sampling, length, asked, ignore_stop)
            self._turns.begun(generation)
        return generation

    def _start(
        self,
        question: GenerationInput,
        limit: int,
        sampling: Sampling,
        length: str | None,
        asked: AskedKeep,
        ignore_stop: bool,
    ) -> Generation:
        """Fill the buffers up to the first token's logits."""
        manifest = self.bundle.manifest
        plan = manifest.plan
        clock = Clock(settle=self._backend.synchronize)
        with clock("preprocess"):
            videos = [self._video(video) for video in question.videos]
            visuals = [*(self._images(as_image(image)) for image in question.images), *(each for _, each in videos)]
            if question.turns is None:
                built = self._prompts.build(question.text, visuals, system=question.system)
            else:
                built = self._prompts.build_conversation(question.turns, visuals)
            total, visual = built.token_ids.size, int(built.visual.sum())
            text = total - visual
            pruned, held = asked.lengths(plan, text, visual, length or plan.length, self.capacity)
            positions = position_ids(manifest.decoder.position_axes, total, built.runs)
        self._embed(built.token_ids)
        for buffer in self._decoder.deepstack:
            buffer.rows(0, total).zero()
        with clock("vision"):
            starts = built.starts(visuals)
            for each, first in zip(visuals, starts, strict=True):
                self._encoder(each, first)
            change = prompt_change(self._decoder.prompt, visuals, starts, total) if carries_change(plan, 0) else None
        left = self._decoder.prefill(positions, built.visual, pruned, clock, ask=held, change=change)
        notes = [note for video, _ in videos for note in video.notes]
        answer = begun_answer(plan, built.visual, left, asked, backend=self._backend.name, notes=notes)
        answer.notes += pruning_notes(plan, text, visual, [each.size for each in left], asked.keep, held)
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

    def _video(self, video: VideoInput) -> tuple[Video, Visual]:
        layout = self.bundle.manifest.video
        if self._videos is None or layout is None:
            raise no_videos(self.bundle.manifest.family)
        sampled = video if isinstance(video, Video) else open_video(video, layout.frames)
        return sampled, self._videos(sampled)

    def _embed(self, token_ids: np.ndarray) -> None:
        self._decoder.prompt.rows(0, token_ids.size).write(self._embedding[token_ids])
