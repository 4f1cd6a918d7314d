"""A place for one generation: buffers of its own, on graphs that other slots run as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastv_runtime.config.io_spec import carries_change
from fastv_runtime.generation.calls.answer import begun_answer
from fastv_runtime.generation.calls.answer_text import AnswerText
from fastv_runtime.generation.calls.settings import Settings
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoding.linked import load_decoder
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.held import HeldPrompt, SavedConversation
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.model import Model, PreparedPrompt
from fastv_runtime.generation.notes import pruning_notes
from fastv_runtime.generation.sampling import Sampler
from fastv_runtime.preprocessing.videos.change import prompt_change


class Slot:
    """Buffers for one prompt and its answer. One generation at a time: a new one overwrites the one before.

    What they hold of the prompt before and of its answer is gone on from where settings ask for `reuse`.
    """

    def __init__(self, model: Model):
        self.model = model
        self.decoder = load_decoder(model.manifest, model.backend, model.capacity)
        self._encoder = Encoder(model.manifest.graphs, model.backend, self.decoder)
        self._held: HeldPrompt | None = None

    def common(self, prepared: PreparedPrompt) -> int:
        """Tokens at the start of a prompt that are in the caches."""
        return 0 if self._held is None else self._held.common(prepared)

    def start(self, prepared: PreparedPrompt, settings: Settings, clock: Clock) -> TokenLoop:
        """Fill the buffers up to the first token's logits. Raises UserError for what the plan does not support.

        clock: that of `Model.prepare`.
        """
        model, prompt, decoder = self.model, prepared.prompt, self.decoder
        plan, backend = model.manifest.plan, model.backend
        policy = settings.length or plan.length
        pruned, held = settings.asked.lengths(plan, prepared.text, prepared.visual, policy, model.capacity)
        grammar = None if settings.grammar is None else model.grammars.matcher(settings.grammar)
        before, self._held = self._held, None
        common = before.common(prepared) if settings.reuse and before is not None else 0
        starts = prompt.starts(prepared.visuals)
        start = prepared.whole_visuals(decoder.resume(common, prepared.length))
        decoder.prompt.rows(start, prepared.length).write(model.embedding[prompt.token_ids[start:]])
        for buffer in decoder.deepstack:
            buffer.rows(start, prepared.length).zero()
        with clock("vision"):
            for index, first in enumerate(starts):
                if first[0] >= start:
                    self._encode(prepared, index, first)
            change = None
            if carries_change(plan, 0):
                seen = None if before is None else before.change
                change = self._change(prepared, starts, start, seen)
        left = decoder.prefill(
            prepared.positions, prompt.visual, pruned, clock, held, change, start=start, stay=settings.stay
        )
        answer = begun_answer(
            plan,
            prompt.visual,
            left,
            settings.asked,
            backend=backend.name,
            notes=list(prepared.notes),
            reused=decoder.reused,
        )
        self._held = HeldPrompt.of(prepared, answer, change)
        lengths = [each.size for each in left]
        answer.notes += pruning_notes(plan, prepared.text, prepared.visual, lengths, settings.asked.keeps, held)
        stop, sampling = model.manifest.tokens.stop, settings.sampling
        return TokenLoop(
            answer,
            decoder,
            backend,
            self.embed,
            AnswerText(model.prompts.tokenizer.backend_tokenizer, settings.stop),
            Sampler(sampling),
            LogitRules(model.manifest.generation, prompt.token_ids, stop, sampling.repetition_penalty),
            frozenset() if settings.ignore_stop else frozenset(stop),
            settings.limit,
            clock,
            grammar,
        )

    def embed(self, token_ids: np.ndarray) -> None:
        """Write the embeddings of at most STEP_ROWS token ids where the decoder's next step reads them."""
        self.decoder.following.rows(0, token_ids.size).write(self.model.embedding[token_ids])

    def save(self) -> SavedConversation | None:
        """A copy of what a prompt can go on from; None where there is nothing."""
        if self._held is None:
            return None
        return SavedConversation(self._held, self.decoder.save())

    def restore(self, saved: SavedConversation) -> None:
        """Hold what was saved, of this slot or of another one of the model's."""
        self._held = None
        self.decoder.restore(saved.decoder)
        self._held = saved.held

    def _encode(self, prepared: PreparedPrompt, index: int, first: Sequence[int]) -> None:
        """Features of one visual into the prompt's rows, from the cache of features where it has them."""
        visual, cache, digest = prepared.visuals[index], self.model.features, prepared.digests[index]
        buffers = [self.decoder.prompt, *self.decoder.deepstack]
        places = [(row, row + run.tokens) for row, run in zip(first, visual.runs, strict=True)]
        known = cache.get(digest) if cache.limit else None
        if known is not None:
            arrays = iter(known)
            for buffer in buffers:
                for place in places:
                    buffer.rows(*place).write(next(arrays))
            return
        self._encoder(visual, first)
        if cache.limit:
            cache.put(digest, [buffer.rows(*place).array() for buffer in buffers for place in places])

    def _change(
        self, prepared: PreparedPrompt, starts: list[list[int]], start: int, before: np.ndarray | None
    ) -> np.ndarray:
        """The signal of that name of a whole prompt, of which rows before `start` are those of the prompt before."""
        change = np.zeros(prepared.length, np.float32)
        if before is not None:
            change[:start] = before[:start]
        new = [index for index, first in enumerate(starts) if first[0] >= start]
        visuals, rows = [prepared.visuals[index] for index in new], [starts[index] for index in new]
        change[start:] = prompt_change(self.decoder.prompt, visuals, rows, prepared.length)[start:]
        return change
