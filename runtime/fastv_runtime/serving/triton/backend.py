"""The model that Triton's Python backend runs: requests become jobs of one scheduler, answers decoupled responses.

Its contract is the README of github.com/triton-inference-server/python_backend; `async def execute` needs Triton 24.04.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.answer import Answer
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import (
    DeadlineError,
    Failed,
    Finished,
    JobCancelledError,
    QueueFullError,
    Scheduler,
    Started,
    StoppingError,
    TextPiece,
    Ticket,
)
from fastv_runtime.serving.triton.parameters import read_parameters
from fastv_runtime.serving.triton.request import in_their_words, read_request
from fastv_runtime.serving.triton.tensors import FINISH_REASON, TEXT, USAGE

LOOKS_S = 0.05
"""Seconds between two looks at whether a client has gone."""


class TritonPythonModel:
    """Triton makes one for each instance, in a process of its own, and calls the methods below."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the bundle. An exception keeps Triton from loading the model, and Triton shows its message."""
        # There in a process of Triton's alone.
        import triton_python_backend_utils as triton

        self._triton = triton
        config = json.loads(args["model_config"])
        parameters = read_parameters(config.get("parameters", {}), Path(args["model_repository"]))
        device = "cuda" if args["model_instance_kind"] == "GPU" else "cpu"
        if device == "cuda" and args["model_instance_device_id"] != "0":
            raise UserError(
                f"instance_group of config.pbtxt: GPU {args['model_instance_device_id']}: this program uses the first "
                "GPU that it sees: start a Triton for each, with CUDA_VISIBLE_DEVICES"
            )
        bundle = Bundle.open(parameters.bundle)
        self._model = Model(bundle, threads=parameters.threads, backend=parameters.backend, device=device)
        self._scheduler = Scheduler(
            self._model,
            slots=parameters.slots,
            waiting=parameters.waiting,
            cache_bytes=parameters.cache_mb << 20,
            metrics=Metrics(),
        )
        self._drain_s = parameters.drain_s

    async def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests; Triton gives more while these are answered. What goes wrong with one is its answer."""
        await asyncio.gather(*map(self._answer, requests))

    def is_ready(self) -> bool:
        """Asked by newer Tritons."""
        return self._scheduler.ready

    def finalize(self) -> None:
        self._scheduler.stop(self._drain_s)

    async def _answer(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            await self._send_answer(request, sender)
        except Exception as error:
            message, code = self._reported(error)
            sender.send(self._triton.InferenceResponse(error=self._triton.TritonError(message, code)))
        finally:
            # Even where the client has gone.
            sender.send(flags=self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _reported(self, error: Exception) -> tuple[str, Any]:
        """A message, and Triton's code for it."""
        codes = self._triton.TritonError
        if isinstance(error, UserError):
            return in_their_words(str(error)), codes.INVALID_ARG
        if isinstance(error, (QueueFullError, StoppingError, DeadlineError)):
            return str(error), codes.UNAVAILABLE
        if isinstance(error, JobCancelledError):
            return str(error), codes.CANCELLED
        return f"{type(error).__name__}: {error}", codes.INTERNAL

    async def _send_answer(self, request: Any, sender: Any) -> None:
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        microseconds = request.timeout()
        deadline_s = microseconds / 1e6 if microseconds else None
        # Reads images and compiles grammars: not for the event loop, in which all requests are answered.
        job, streamed = await asyncio.to_thread(read_request, self._model.manifest, arrays, deadline_s)
        ticket = self._scheduler.submit(job)
        watch = asyncio.ensure_future(_cancel_with(sender, ticket))
        try:
            reused = 0
            async for event in ticket.events():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Started):
                    reused = event.reused_tokens
                elif isinstance(event, TextPiece) and streamed and event.text:
                    sender.send(self._response(event.text))
                elif isinstance(event, Finished):
                    answer = event.answer
                    text = "" if streamed else answer.text
                    sender.send(self._response(text, answer.finish_reason, _usage(answer, reused)))
        finally:
            watch.cancel()

    def _response(self, text: str, finish_reason: str = "", usage: str = "") -> Any:
        outputs = {TEXT: text, FINISH_REASON: finish_reason, USAGE: usage}
        tensors = [
            self._triton.Tensor(name, np.array([value.encode()], dtype=np.object_)) for name, value in outputs.items()
        ]
        return self._triton.InferenceResponse(output_tensors=tensors)


def _usage(answer: Answer, reused_tokens: int) -> str:
    """As OpenAI's `usage` has it, with what the bundle kept of the prompt's visual tokens."""
    made = len(answer.token_ids)
    return json.dumps(
        {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": answer.prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": reused_tokens},
            "visual_tokens": answer.visual_tokens,
            "kept_tokens": len(answer.kept_visual_tokens),
        }
    )


async def _cancel_with(sender: Any, ticket: Ticket) -> None:
    """Until the client goes away, which frees its place, running or waiting."""
    while not sender.is_cancelled():
        await asyncio.sleep(LOOKS_S)
    ticket.cancel()
