"""Samples measured by the workers of a Ray cluster: each loads the model once, and whoever is free gets the next."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastv_calib.distribution.machines import LOCAL
from fastv_calib.measurement.measure import Measure, load_measure
from fastv_calib.measurement.outcomes import Yielded
from fastv_calib.samples.data import Sample
from fastv_export.calibration import CalibrationSettings
from fastv_runtime.errors import UserError, missing_extra
from fastv_runtime.signals import handlers_kept

LOSSES = 3
"""Workers that may be lost over one sample, or one after another before they measure anything."""
CONNECT = 5.0
"""Seconds to reach a cluster."""
OBJECTS = 80 << 20
"""Bytes of shared memory, the least that Ray takes: what workers return is small."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How an HTTP/2 client begins (RFC 9113, 3.4), with empty settings. Ray's servers, gRPC's, answer with theirs."""
SETTINGS = b"\x04"
TLS = (b"\x15", b"\x16")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What every worker is made of, and what it takes."""

    source: Path
    settings: CalibrationSettings
    threads: int
    memory: int
    """Bytes."""


class Worker:
    """A process of the cluster with the model loaded."""

    def __init__(self, work: Work):
        self._work = work
        self._measure: Measure | None = None

    def ready(self) -> int:
        """Load the model; the process id."""
        import torch

        torch.set_num_threads(self._work.threads)
        self._measure = load_measure(self._work.source, self._work.settings)
        return os.getpid()

    def measure(self, sample: Sample) -> Yielded:
        assert self._measure is not None
        return self._measure(sample)


def measure_on_ray(
    address: str,
    workers: int | None,
    work: Work,
    samples: Sequence[Sample],
    add: Callable[[Yielded], None],
) -> None:
    """Measure all samples; `add` gets what each yields, in the order in which they are done.

    address: LOCAL starts a cluster of `workers` workers on this machine, which ends with this call. workers: at most so
    many; None means what the cluster has room for. A lost worker is replaced, and its sample measured again. Raises
    UserError for a cluster that cannot be reached or has no room, and what a sample raises.
    """
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray") from None
    with _connected(ray, address, workers, work):
        room = _room(ray, work)
        if not room:
            raise UserError(
                f"`ray` {address}: no machine there has {work.threads} cores and {work.memory / 2**30:.1f} GiB for a "
                "worker: give fewer `threads`, or add machines"
            )
        crew = Crew(ray, work, samples, min(room if workers is None else workers, len(samples)))
        while crew.busy:
            yielded = crew.wait()
            if yielded is not None:
                add(yielded)


class Crew:
    """Workers that start, those that measure, and the samples that wait."""

    def __init__(self, ray: Any, work: Work, samples: Sequence[Sample], workers: int):
        self._ray, self._work = ray, work
        options = {"num_cpus": work.threads, "memory": work.memory}
        self._kind = ray.remote(Worker).options(**options)
        # Files are where they are for this process, whatever folder a worker runs in.
        self._waiting = deque(_absolute(sample) for sample in samples)
        self._running: dict[Any, tuple[Any, Sample | None]] = {}
        """By the result to come: the worker, and its sample; None while it starts."""
        self._losses: Counter[str | None] = Counter()
        """By sample; None counts workers that were lost one after another before they were ready."""
        for _ in range(workers):
            self._start()

    @property
    def busy(self) -> bool:
        """Whether samples wait or are measured."""
        return bool(self._waiting) or any(sample is not None for _, sample in self._running.values())

    def wait(self) -> Yielded | None:
        """Until something happens; a sample's yield, if that is what happened."""
        (done,), _ = self._ray.wait(list(self._running), num_returns=1)
        worker, sample = self._running.pop(done)
        try:
            result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except self._ray.exceptions.RayError as error:
            self._replace(worker, sample, error)
            return None
        if sample is None:
            logger.info("worker ready, process %d", result)
            self._losses[None] = 0
        if self._waiting:
            following = self._waiting.popleft()
            self._running[worker.measure.remote(following)] = worker, following
        return None if sample is None else result

    def _start(self) -> None:
        worker = self._kind.remote(self._work)
        self._running[worker.ready.remote()] = worker, None

    def _replace(self, worker: Any, sample: Sample | None, error: Exception) -> None:
        self._ray.kill(worker)  # it may be out of reach only
        key = None if sample is None else sample.where
        self._losses[key] += 1
        where = "its start" if sample is None else sample.where
        if self._losses[key] == LOSSES:
            raise UserError(
                f"{where}: {LOSSES} workers were lost over it, perhaps for want of memory: give fewer `workers` "
                f"({type(error).__name__}); run again to go on with what is measured"
            )
        logger.warning("a worker was lost over %s: it is replaced, and the sample measured again", where)
        if sample is not None:
            self._waiting.appendleft(sample)
        self._start()


def _absolute(sample: Sample) -> Sample:
    images = tuple(image.absolute() for image in sample.images)
    return replace(sample, images=images, video=None if sample.video is None else sample.video.absolute())


@contextmanager
def _connected(ray: Any, address: str, workers: int | None, work: Work) -> Iterator[None]:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        assert workers is not None
        # Ray's processes inherit these. Without a token of our own Ray would write one into the home folder.
        own = {"RAY_USAGE_STATS_ENABLED": "0"}
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            own["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        with _environment(own), handlers_kept():  # Ray's would end this process without a word
            ray.init(
                address="local",
                num_cpus=workers * work.threads,
                num_gpus=0,
                _memory=workers * work.memory,
                object_store_memory=OBJECTS,
                include_dashboard=False,
                **quiet,
            )
    else:
        _reach(address)
        try:
            ray.init(address=address, **quiet)
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"`ray` {address}: {first}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """UserError unless something listens at an address; Ray itself would try for long."""
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or parts.scheme not in ("", "ray"):
        raise UserError(f"`ray` {address}: give HOST:PORT, ray://HOST:PORT, auto, local or off")
    try:
        with socket.create_connection((host, port), timeout=CONNECT) as connection:
            reply = _reply(connection)
    except OSError as error:
        raise UserError(
            f"`ray` {address}: cannot be reached ({error}): start a cluster there (ray start --head), or `ray` local"
        ) from None
    if reply[3:4] != SETTINGS and reply[:1] not in TLS:
        raise UserError(f"`ray` {address}: is no Ray there, but another server: ray status shows a cluster's address")


def _reply(connection: socket.socket) -> bytes:
    """The first bytes; none of a server that waits."""
    connection.sendall(HELLO)
    try:
        return connection.recv(len(HELLO))
    except TimeoutError:
        return b""


def _room(ray: Any, work: Work) -> int:
    """Workers for which the cluster's machines have cores and memory."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(each.get("CPU", 0) // work.threads, each.get("memory", 0) // work.memory)) for each in resources)


@contextmanager
def _environment(own: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
