"""A place for one generation: buffers of its own, on graphs that other slots run as well."""

from __future__ import annotations

import numpy as np

from fastv_runtime.config.io_spec import carries_change
from fastv_runtime.generation.calls.answer import begun_answer
from fastv_runtime.generation.calls.answer_text import AnswerText
from fastv_runtime.generation.calls.settings import Settings
from fastv_runtime.generation.calls.streaming import TokenLoop
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoder import load_decoder
from fastv_runtime.generation.encoder import Encoder
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.model import Model, PreparedPrompt
from fastv_runtime.generation.notes import pruning_notes
from fastv_runtime.generation.sampling import Sampler
from fastv_runtime.preprocessing.videos.change import prompt_change


class Slot:
    """Buffers for one prompt and its answer. One generation at a time: a new one overwrites the one before."""

    def __init__(self, model: Model):
        self.model = model
        self.decoder = load_decoder(model.manifest, model.backend, model.capacity)
        self._encoder = Encoder(model.manifest.graphs, model.backend, self.decoder)

    def start(self, prepared: PreparedPrompt, settings: Settings, clock: Clock) -> TokenLoop:
        """Fill the buffers up to the first token's logits. Raises UserError for what the plan does not support.

        clock: that of `Model.prepare`.
        """
        model, prompt = self.model, prepared.prompt
        plan, backend = model.manifest.plan, model.backend
        policy = settings.length or plan.length
        pruned, held = settings.asked.lengths(plan, prepared.text, prepared.visual, policy, model.capacity)
        grammar = None if settings.grammar is None else model.grammars.matcher(settings.grammar)
        self.embed(prompt.token_ids)
        for buffer in self.decoder.deepstack:
            buffer.rows(0, prepared.length).zero()
        with clock("vision"):
            starts = prompt.starts(prepared.visuals)
            for each, first in zip(prepared.visuals, starts, strict=True):
                self._encoder(each, first)
            moving = carries_change(plan, 0)
            change = prompt_change(self.decoder.prompt, prepared.visuals, starts, prepared.length) if moving else None
        left = self.decoder.prefill(prepared.positions, prompt.visual, pruned, clock, ask=held, change=change)
        answer = begun_answer(
            plan, prompt.visual, left, settings.asked, backend=backend.name, notes=list(prepared.notes)
        )
        lengths = [each.size for each in left]
        answer.notes += pruning_notes(plan, prepared.text, prepared.visual, lengths, settings.asked.keeps, held)
        stop, sampling = model.manifest.tokens.stop, settings.sampling
        return TokenLoop(
            answer,
            self.decoder,
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
        """Write token ids' embeddings where the decoder reads them."""
        self.decoder.prompt.rows(0, token_ids.size).write(self.model.embedding[token_ids])
