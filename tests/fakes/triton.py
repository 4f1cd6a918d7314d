"""A stand-in for `triton_python_backend_utils`, from the contract of Triton's Python backend.

Its README and pb_stub.cc say what each of these does; what those refuse is refused here. test_triton_server in
tests/serving runs the same model on Triton itself, where that is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):
    """What the backend raises for a model that does not keep the contract."""


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL):
        if not isinstance(message, str):
            raise TypeError("message")
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, values: np.ndarray):
        if not isinstance(name, str) or not isinstance(values, np.ndarray):
            raise TypeError("a name and a numpy array")
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None):
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class InferenceResponseSender:
    """Keeps what is sent. `cancelled`: whether the client has gone."""

    def __init__(self) -> None:
        self.responses: list[InferenceResponse] = []
        self.closed = self.cancelled = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        if self.closed:
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException("Unable to send response. Unsupported flag provided.")
        if response is None and flags == 0:
            raise TritonModelException("Inference Response object must be provided when the response flags is 0.")
        self.closed = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if response is not None:
            self.responses.append(response)

    def is_cancelled(self) -> bool:
        return self.cancelled


class InferenceRequest:
    """Inputs as Triton gives them: texts and bytes are arrays of objects, which are bytes."""

    _types: ClassVar[dict[type, Any]] = {bytes: np.object_, bool: np.bool_, int: np.int32, float: np.float64}

    def __init__(self, inputs: dict[str, Any], timeout: int = 0):
        self._inputs = []
        for name, given in inputs.items():
            values = [each.encode() if isinstance(each, str) else each for each in _listed(given)]
            dtype = np.uint64 if name == "SEED" else self._types[type(values[0])]
            self._inputs.append(Tensor(name, np.array(values, dtype=dtype)))
        self._timeout = timeout
        self.sender = InferenceResponseSender()

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def timeout(self) -> int:
        """Microseconds; 0 for none."""
        return self._timeout

    def get_response_sender(self) -> InferenceResponseSender:
        return self.sender


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
