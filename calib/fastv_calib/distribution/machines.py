"""How many samples are measured at a time, and on how many threads each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from fastv_runtime import limits
from fastv_runtime.errors import UserError

LOCAL, OFF = "local", "off"
START = 30.0
"""Seconds that a cluster on this machine must save to be worth its start."""


@dataclass(frozen=True)
class Machines:
    """What the user says of who measures; None is what suits."""

    ray: str | None = None
    """LOCAL, OFF, or a cluster's address; None is LOCAL where that pays."""
    workers: int | None = None
    """Samples at a time."""
    threads: int | None = None
    """Per sample."""

    def __post_init__(self) -> None:
        for name, value, most in (("workers", self.workers, limits.WORKERS), ("threads", self.threads, limits.THREADS)):
            if value is not None and not 1 <= value <= most:
                raise UserError(f"`{name}` {value}: must be 1 to {most:,}")
        if self.ray == OFF and self.workers is not None:
            raise UserError(f"`workers` {self.workers}: are Ray's, and `ray` {OFF} does without: leave one out")


def memory_of(weight_bytes: int) -> int:
    """Bytes that one worker takes: weights in fp32, room for activations, and the libraries."""
    return weight_bytes + weight_bytes // 4 + 2**30


def default_threads(memory: int) -> int:
    """Threads per sample where workers of `memory` bytes each fill this machine.

    Sums of floating-point numbers depend on the number of threads, so it must not depend on who measures: it is the
    same with Ray and without.
    """
    return max(1, torch.get_num_threads() // _copies(memory))


def local_workers(machines: Machines, threads: int, memory: int, samples: int) -> int:
    """How many workers measure `samples` samples on this machine."""
    return min(machines.workers or max(1, min(torch.get_num_threads() // threads, _copies(memory))), samples)


def pays(samples: int, seconds: float, workers: int) -> bool:
    """Whether `workers` workers save more than their start, where a sample takes one of them `seconds`."""
    return samples * seconds * (1 - 1 / max(1, workers)) > START


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within this context torch computes on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_ray() -> bool:
    return find_spec("ray") is not None


def _copies(memory: int) -> int:
    """Workers for which there are cores and memory, one at least."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(torch.get_num_threads(), total // memory))
