"""The public API: images and a question in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastv_runtime.backends.base import Backend
from fastv_runtime.config.bundle import Bundle
from fastv_runtime.config.layouts import Aspect
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.arguments import VideoInput, image_list, path_of, video_list
from fastv_runtime.generation.calls.chat import ChatSession
from fastv_runtime.generation.calls.keep import Keep
from fastv_runtime.generation.calls.question import GenerationInput, read_question
from fastv_runtime.generation.calls.settings import Settings, read_settings
from fastv_runtime.generation.calls.streaming import Generation
from fastv_runtime.generation.calls.turns import Turns
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoding.decoder import Decoder
from fastv_runtime.generation.grammar import Grammar
from fastv_runtime.generation.model import Model
from fastv_runtime.generation.sampling import Sampling
from fastv_runtime.generation.slot import Slot
from fastv_runtime.preprocessing.images.loading import ImageInput

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
    backend: what executes the graphs: `ort` (ONNX Runtime), `openvino` or `trt` (TensorRT, with the engines that
    fastv-build made); None means the one that the bundle was exported for. device: `cpu`, `cuda`, `gpu` or `auto`; None
    means the backend's own. compute: what `openvino` computes in: `f32`, `bf16` or `f16`; None leaves it to the bundle.
    model_cache: where `openvino` keeps compiled graphs, for a sooner start the next time; what is there is trusted.
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
    ):
        runs: dict[str, Any] = {"threads": threads, "backend": backend, "device": device, "compute": compute}
        model = Model(bundle, aspect=aspect, model_cache=model_cache, **runs)
        self._slot = Slot(model)
        self.bundle = bundle
        self.capacity = model.capacity
        self._turns = Turns()

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        aspect: Aspect | None = None,
        backend: str | None = None,
        device: str | None = None,
        compute: str | None = None,
        model_cache: str | Path | None = None,
        check_hashes: bool = False,
        public_key: str | Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Pipeline:
        """Open the bundle at `path` as `Bundle.open` does, and load its graphs; other arguments as for the class.
        Raises UserError."""
        bundle = Bundle.open(
            path_of("bundle", path), check_hashes=check_hashes, public_key=public_key, progress=progress
        )
        runs: dict[str, Any] = {"threads": threads, "backend": backend, "device": device, "compute": compute}
        return cls(bundle, aspect=aspect, model_cache=model_cache, **runs)

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
        cuts: Sequence[float] | None = None,
        stop: str | Iterable[str] | None = None,
        grammar: Grammar | None = None,
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
                cuts=cuts,
                stop=stop,
                grammar=grammar,
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
        cuts: Sequence[float] | None = None,
        stop: str | Iterable[str] | None = None,
        grammar: Grammar | None = None,
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
        cuts: fraction of visual tokens that each cut of the plan leaves, descending or equal, in place of `keep` and
        `share`.
        stop: one text or up to 4, of which the first that the answer contains ends it, and is not part of it.
        grammar: what the answer must be, JSON by a schema or text by a regular expression; it needs the extra `serve`.
        ignore_stop: go on past stop tokens (for measuring).
        videos: one or several, each sampled frames (`open_video`) or a path, for models that take videos.
        Raises UserError for what cannot be used or what the plan does not support, PipelineBusyError while another
        thread reads a stream of this pipeline, PipelineEndedError after `close`.
        """
        settings = read_settings(
            self.bundle.manifest,
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
            cuts=cuts,
            stop=stop,
            grammar=grammar,
            ignore_stop=ignore_stop,
        )
        return self._begin(read_question(prompt, messages, system, image_list(images), video_list(videos)), settings)

    def _begin(self, question: GenerationInput, settings: Settings) -> Generation:
        """Prefill, once it is this call's turn."""
        with self._turns.taken():
            slot = self._slot
            clock = Clock(settle=slot.model.backend.synchronize)
            prepared = slot.model.prepare(question, clock)
            generation = Generation(slot.start(prepared, settings, clock), self._turns, prepared.shown)
            self._turns.begun(generation)
        return generation

    def chat(
        self,
        *,
        system: str | None = None,
        stay: float | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        length: str | None = None,
        keep: Keep | None = None,
        share: float | None = None,
        cuts: Sequence[float] | None = None,
        stop: str | Iterable[str] | None = None,
        grammar: Grammar | None = None,
    ) -> ChatSession:
        """A conversation: `chat.ask("What is it?", image)`, then `chat.ask("What color is it?")`.

        A later question costs what is new: images are encoded once, and layers before the first cut run the new turn
        alone, since they saw the whole image. The image's tokens are chosen anew for each question, and layers behind a
        cut run again from the first token on that is another. Answers are those of `generate` with the whole
        conversation as `messages`. What other calls do with this pipeline in between costs time, and changes nothing.

        system: a message that stands before the first turn.
        stay: from 0 to 1, of turns that show nothing new: where at least this share of the visual tokens that a cut
        would keep was kept by the turn before, those of the turn before stay, and only the new turn is run. Answers may
        then differ. None: tokens are chosen anew each time.
        Other arguments and errors as for `stream`, for all turns.
        """
        self._turns.check_open()
        settings = read_settings(
            self.bundle.manifest,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            length=length,
            keep=keep,
            share=share,
            cuts=cuts,
            stop=stop,
            grammar=grammar,
            reuse=True,
            stay=stay,
        )

        def stream(messages: Sequence[dict[str, Any]]) -> Generation:
            return self._begin(read_question(None, messages, None, [], []), settings)

        model = self._slot.model
        return ChatSession(stream, model.show_image, model.show_video, self._turns.whole, system)

    def close(self) -> None:
        """Free the graphs and buffers, once no other thread is at them; an open stream ends. May be called again, and
        other calls raise PipelineEndedError."""
        with self._turns.lock:
            if not self._turns.closed:
                self._turns.close()
                del self._slot

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def backend(self) -> Backend:
        """What executes the graphs."""
        self._turns.check_open()
        return self._slot.model.backend

    @property
    def decoder(self) -> Decoder:
        """The language model and its buffers, for measuring; ends the generation that this thread is at.

        Nothing keeps other threads from the buffers meanwhile. Raises PipelineBusyError where one reads a stream.
        """
        with self._turns.taken():
            return self._slot.decoder

    @property
    def logits(self) -> Float[np.ndarray, " V"]:
        """Logits (fp32) from which the next token is chosen; on the host a view that the next step overwrites."""
        self._turns.check_open()
        return self._slot.decoder.logits
