"""An answer as it is being made: the loop from token to token, and what its reader holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from PIL import Image

from fastv_runtime.backends.base import Backend
from fastv_runtime.errors import PipelineEndedError, UserError
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.calls.answer_text import AnswerText
from fastv_runtime.generation.calls.turns import Turns
from fastv_runtime.generation.clock import Clock
from fastv_runtime.generation.decoding.decoder import Decoder
from fastv_runtime.generation.grammar import GrammarMatcher
from fastv_runtime.generation.kept_image import draw_cuts, draw_kept, numbered
from fastv_runtime.generation.logit_rules import LogitRules
from fastv_runtime.generation.sampling import Sampler
from fastv_runtime.memory.bindings import STEP_ROWS
from fastv_runtime.preprocessing import Visual


@dataclass
class TokenLoop:
    """Chooses a token, says its text, runs the next step; fills in the answer as it goes."""

    answer: Answer
    decoder: Decoder
    backend: Backend
    embed: Callable[[np.ndarray], None]
    """Writes token ids' embeddings where the decoder reads them."""
    text: AnswerText
    sampler: Sampler
    rules: LogitRules
    stop: frozenset[int]
    limit: int
    clock: Clock
    grammar: GrammarMatcher | None = None
    ran: int = 0
    """Of the answer's tokens, how many the decoder has run: the caches hold those."""

    def advance(self) -> str:
        """The next token's text, and that of those that a grammar leaves no choice about; empty where that is half a
        character, or may begin a stop string. Not to be called after `finish_reason`."""
        answer = self.answer
        if answer.token_ids:
            self._run()
        else:
            check_numbers(self.decoder.logits)
        begun = len(answer.text)
        for token in self._chosen():
            answer.token_ids.append(token)
            answer.text += self.text.add(token)
            self.clock.token()
            if token in self.stop or self.text.stopped:
                answer.finish_reason = "stop"
                break
        if len(answer.token_ids) >= self.limit and not answer.finish_reason:
            answer.finish_reason = "stop" if self.grammar is not None and self.grammar.complete else "length"
        if answer.finish_reason:
            self._end()
        return answer.text[begun:]

    def cut(self, reason: str) -> None:
        """End here, between two tokens: the answer gets the text that was held back, and that `finish_reason`."""
        self.answer.finish_reason = reason
        self._end()

    def _run(self) -> None:
        """Run the tokens that were chosen since."""
        while waiting := self.answer.token_ids[self.ran : self.ran + STEP_ROWS]:
            self.embed(np.asarray(waiting))
            self.decoder.step(len(waiting))
            self.ran += len(waiting)

    def _chosen(self) -> list[int]:
        """The next token, and those that a grammar forces after it, all within the limit."""
        grammar, room = self.grammar, self.limit - len(self.answer.token_ids)
        if grammar is None:
            return [self._picked()]
        if not self.answer.token_ids and (forced := grammar.forced(room)):  # an answer may begin with these
            return forced
        token = self._picked_by(grammar)
        grammar.take(token)
        return [token] if token in self.stop else [token, *grammar.forced(room - 1)]

    def _picked(self) -> int:
        if self.sampler.greedy and self.rules.idle:
            return self.decoder.token
        return self.sampler.pick(self.rules(self.decoder.logits, self.answer.token_ids))

    def _picked_by(self, grammar: GrammarMatcher) -> int:
        """The grammar has the last word: rules that leave nothing of what it allows are set aside."""
        if self.sampler.greedy and grammar.allows(token := self._picked()):  # as cheap as no grammar
            return token
        allowed, logits = grammar.allowed(), self.decoder.logits
        ruled = np.where(allowed, self.rules(logits, self.answer.token_ids), -np.inf)
        return self.sampler.pick(ruled if ruled.max() > -np.inf else np.where(allowed, logits, -np.inf))

    def _end(self) -> None:
        answer = self.answer
        if not self.text.stopped:
            answer.text += self.text.end(answer.token_ids)
            if self.text.stopped:  # in what was held back until now
                answer.finish_reason = "stop"
        if self.grammar is not None and (note := self.grammar.unfinished(cut=self.text.stopped)):
            answer.notes.append(note)
        answer.notes += self.backend.notes


def check_numbers(logits: np.ndarray) -> None:
    """UserError for logits [V] that choose no token: NaN, or infinite where they are largest.

    Once a generation, of its first token: from a device that is one row more, and decoding greedily stays free of it.
    """
    if not np.isfinite(logits.max()):
        raise UserError(
            "the model's logits are no numbers (NaN or infinite), so there is no answer: verify the bundle with "
            "another backend, or export it again in fp32 from a checkpoint whose weights are whole"
        )


class Generation(Iterator[str]):
    """An answer as it is being made: iterate for pieces of text, then read `answer`.

    Pieces never split a character. Any thread may read, one at a time. A generation is open until its last piece, until
    `close`, the end of its `with` block, or until nobody holds it; while it is, threads other than the one that began
    it are refused by the pipeline. Another generation that the same thread starts ends it: reading on then raises
    PipelineEndedError.
    """

    def __init__(self, loop: TokenLoop, turns: Turns, visuals: Sequence[Visual]):
        self.answer = loop.answer
        self._loop: TokenLoop | None = loop  # and with it the pipeline's buffers, let go of at the end
        self._turns = turns
        self._visuals = visuals
        self._why = ""

    @property
    def is_open(self) -> bool:
        """Whether there may be more to read."""
        return self._loop is not None

    def timings_ms(self) -> dict[str, float]:
        """Timings so far, in the terms of `Answer.timings_ms`."""
        loop = self._loop
        return self.answer.timings_ms if loop is None else loop.clock.timings()

    def draw_kept(self) -> Image.Image:
        """The images as the model saw them: patches whose visual tokens were dropped are dimmed, kept ones framed.

        Of a plan with several cuts a row for each, from the first to the last.
        """
        answer, views = self.answer, numbered(self._visuals)
        if len(answer.cuts) < 2:
            return draw_kept(views, answer.kept_visual_tokens)
        captions = [
            f"K={cut.layer}: {len(cut.kept_visual_tokens)} of {answer.visual_tokens} visual tokens"
            for cut in answer.cuts
        ]
        return draw_cuts(
            views, [(each, cut.kept_visual_tokens) for each, cut in zip(captions, answer.cuts, strict=True)]
        )

    def close(self) -> None:
        """End here: the answer stays as far as it came, and the pipeline is free for others. May be called again."""
        with self._turns.lock:
            self._finish()

    def end(self, why: str) -> None:
        """`close` by somebody else than the reader, who gets a PipelineEndedError that says why."""
        self.close()
        self._why = why

    def __next__(self) -> str:
        with self._turns.lock:
            while self._loop is not None:
                try:
                    piece = self._loop.advance()
                except BaseException:  # an interrupt too: the buffers are then between two tokens
                    self._finish()
                    raise
                if self.answer.finish_reason:
                    self._finish()
                if piece:
                    return piece
        if self._why:
            raise PipelineEndedError(self._why)
        raise StopIteration

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self) -> None:
        if self._loop is not None:
            self.answer.timings_ms = self._loop.clock.timings()
            self._loop = None
