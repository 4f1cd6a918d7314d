"""One pipeline and many callers: nobody gets another's answer, and what is over is let go of."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastv_runtime import Answer, Generation, Pipeline, PipelineBusyError, PipelineEndedError
from tests.conftest import noise_image

QUESTION = "What color is it?"
IMAGES = [noise_image(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def alone(pipeline: Pipeline) -> list[list[int]]:
    """What each image's answer is when nobody else asks."""
    answers = [ask(pipeline, index).token_ids for index in range(len(IMAGES))]
    assert len({tuple(each) for each in answers}) == len(IMAGES)
    return answers


def ask(pipeline: Pipeline, index: int) -> Answer:
    return pipeline.generate([IMAGES[index]], QUESTION, max_new_tokens=12, ignore_stop=True)


def begin(pipeline: Pipeline, index: int = 0) -> Generation:
    return pipeline.stream([IMAGES[index]], QUESTION, max_new_tokens=12, ignore_stop=True)


def elsewhere(work: Callable[[], object]) -> object:
    """What `work` returns in another thread; its error is raised here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=60)


def test_callers_in_many_threads_wait_their_turn(pipeline: Pipeline, alone: list[list[int]]) -> None:
    barrier = threading.Barrier(4)

    def caller(first: int) -> list[tuple[int, list[int]]]:
        barrier.wait()
        return [(index % 3, ask(pipeline, index % 3).token_ids) for index in range(first, first + 8)]

    with ThreadPoolExecutor(4) as pool:
        got = [each for answers in pool.map(caller, range(4)) for each in answers]
    assert len(got) == 32
    assert all(tokens == alone[index] for index, tokens in got)


def test_a_stream_that_another_thread_reads_is_not_disturbed(pipeline: Pipeline, alone: list[list[int]]) -> None:
    stream = begin(pipeline)
    next(stream)
    for refused in (lambda: ask(pipeline, 1), lambda: begin(pipeline, 1), lambda: pipeline.decoder):
        with pytest.raises(PipelineBusyError, match="another thread is still reading"):
            elsewhere(refused)
    for _ in stream:
        pass
    assert stream.answer.token_ids == alone[0]
    assert elsewhere(lambda: ask(pipeline, 1).token_ids) == alone[1], "it was read to its end"


def test_any_thread_may_read_a_stream(pipeline: Pipeline, alone: list[list[int]]) -> None:
    stream = begin(pipeline)
    while stream.is_open:
        elsewhere(lambda: next(stream, None))
    assert stream.answer.token_ids == alone[0]


def test_a_stream_is_over_when_it_is_closed_left_or_dropped(pipeline: Pipeline, alone: list[list[int]]) -> None:
    closed = begin(pipeline)
    next(closed)
    closed.close()
    closed.close()
    assert list(closed) == []
    assert elsewhere(lambda: ask(pipeline, 1).token_ids) == alone[1]
    with begin(pipeline) as left:
        next(left)
    assert left.answer.finish_reason == ""
    assert left.answer.token_ids == alone[0][: len(left.answer.token_ids)] != []
    assert left.answer.timings_ms["ttft"] > 0
    assert elsewhere(lambda: ask(pipeline, 2).token_ids) == alone[2]
    gc.disable()  # what is dropped is over at once: nothing of it is in a circle
    try:
        for _ in begin(pipeline):
            break
        assert elsewhere(lambda: ask(pipeline, 1).token_ids) == alone[1]
        dropped = begin(pipeline)
        gone = weakref.ref(dropped)
        next(dropped)
        del dropped
        assert gone() is None
    finally:
        gc.enable()


def test_a_thread_that_starts_again_ends_its_own_stream(pipeline: Pipeline, alone: list[list[int]]) -> None:
    old = begin(pipeline)
    next(old)
    assert ask(pipeline, 1).token_ids == alone[1]
    for _ in range(2):
        with pytest.raises(PipelineEndedError, match="another generation was started"):
            next(old)


def test_a_step_that_fails_ends_the_stream(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = begin(pipeline)
    next(stream)

    def interrupted(rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline._slot.decoder, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    assert not stream.is_open
    monkeypatch.undo()
    assert elsewhere(lambda: ask(pipeline, 1)) is not None


def test_a_pipeline_is_closed_at_the_end_of_its_block(tiny_bundle: Path) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        stream = begin(pipeline)
        next(stream)
        held = [weakref.ref(each) for each in (pipeline.backend.engine("suffix"), pipeline._slot.decoder.arena)]
        gc.disable()
    try:
        assert [each() for each in held] == [None, None], "freed at once"
    finally:
        gc.enable()
    with pytest.raises(PipelineEndedError, match="pipeline was closed"):
        next(stream)
    assert stream.draw_kept().size[0] > 0
    pipeline.close()
    for use in (lambda: ask(pipeline, 0), lambda: begin(pipeline), lambda: pipeline.logits, lambda: pipeline.backend):
        with pytest.raises(PipelineEndedError, match="this pipeline was closed: load the bundle again"):
            use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_is_told_to_load_its_own(pipeline: Pipeline) -> None:
    child = os.fork()
    if not child:
        try:
            ask(pipeline, 0)
        except PipelineEndedError as error:
            os._exit(42 if "loaded in another process" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


def test_hundreds_of_generations_leave_nothing_behind(pipeline: Pipeline) -> None:
    def generations(count: int) -> None:
        for index in range(count):
            image = IMAGES[index % 3]
            if index % 3 == 0:
                pipeline.generate([image], QUESTION, max_new_tokens=4)
            elif index % 3 == 1:
                next(pipeline.stream([image], QUESTION, ignore_stop=True))
            else:
                kept = pipeline.stream([image], QUESTION, max_new_tokens=8)
                next(kept)
                abandoned.append(kept)
                del abandoned[:-2]

    abandoned: list[Generation] = []
    generations(100)
    tracemalloc.start()
    generations(10)
    gc.collect()
    resident, traced = rss(), tracemalloc.get_traced_memory()[0]
    generations(190)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - traced
    tracemalloc.stop()
    # One image ready for the graphs is 108 KiB; of 190 one alone kept each time would be 20 MB.
    assert grown < 256 * 1024
    assert rss() - resident < 4 << 20


def rss() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
