"""A server under load: many more clients than slots, every answer checked, some clients that vanish, then kill -9.

    python benchmarks/serving_load.py NAME.fastv demo/images --seconds 300 --out docs/benchmarks/serving_load.json

Each answer is compared with the one that `Pipeline.generate` gives alone; besides answers only 429 is allowed. The
server is a process of its own (fastv-serve), whose memory is sampled. At the end it is killed in the middle of streams,
whose clients must see an end, and started again. Exits with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from serving_questions import LONG, Question, asked_of, questions

from fastv_runtime import Pipeline

VANISH, WHOLE = 0.06, 0.2
"""Shares of requests: whose client leaves in the middle, and that are not streamed."""
SLOWEST_END_S = 10
"""Within which clients of a killed server must see an end."""


class Refused(Exception):
    """429."""

    def __init__(self, retry_after_s: float):
        super().__init__()
        self.retry_after_s = retry_after_s


Ask = Callable[[Question], AsyncIterator[str]]
"""Yields pieces of an answer's text; raises Refused."""


@dataclass
class Tally:
    """What the clients saw. Times are in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Wrong answers and errors, in words."""


async def client(ask: Ask, asked: Sequence[Question], until: float, tally: Tally, pick: random.Random) -> None:
    """Asks one question after another until `until`, of `time.monotonic`."""
    while time.monotonic() < until:
        question = pick.choice(asked)
        leave = pick.randrange(1, 6) if pick.random() < VANISH else None
        start, text, first, count = time.monotonic(), "", None, 0
        pieces = ask(question)
        try:
            async for piece in pieces:
                if piece and first is None:
                    first = time.monotonic() - start
                text += piece
                count += 1
                if count == leave:
                    break
        except Refused as refused:
            tally.outcomes["refused"] += 1
            await asyncio.sleep(refused.retry_after_s * (0.5 + pick.random()))
            continue
        except Exception as error:
            tally.wrong.append(f"{question.name}: {type(error).__name__}: {error}")
            continue
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if count == leave:
            tally.outcomes["vanished"] += 1
        elif text != question.expected:
            tally.wrong.append(f"{question.name}: {text!r} where {question.expected!r} was expected")
        else:
            tally.outcomes["answered"] += 1
            tally.whole.append(time.monotonic() - start)
            tally.first.append(first if first is not None else tally.whole[-1])


async def load(ask: Ask, asked: Sequence[Question], clients: int, seconds: float, seed: int = 0) -> Tally:
    """So many clients at the same time."""
    tally, until = Tally(), time.monotonic() + seconds
    await asyncio.gather(
        *(client(ask, asked, until, tally, random.Random(1000 * seed + index)) for index in range(clients))
    )
    return tally


def over_http(session: httpx.AsyncClient, pick: random.Random) -> Ask:
    async def ask(question: Question) -> AsyncIterator[str]:
        if pick.random() < WHOLE:
            response = await session.post("/v1/chat/completions", json=question.body)
            check(response, response.text)
            yield response.json()["choices"][0]["message"]["content"]
            return
        body = question.body | {"stream": True}
        async with session.stream("POST", "/v1/chat/completions", json=body) as response:
            check(response, (await response.aread()).decode() if response.status_code != 200 else "")
            ended = False
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line:
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        raise RuntimeError(chunk["error"]["message"])
                    for choice in chunk["choices"]:
                        yield choice["delta"].get("content") or ""
            if not ended:
                raise RuntimeError("the stream has no end")

    return ask


def check(response: httpx.Response, text: str) -> None:
    if response.status_code == 429:
        raise Refused(float(response.headers["Retry-After"]))
    if response.status_code != 200:
        raise RuntimeError(f"{response.status_code}: {text}")


class Server:
    """fastv-serve in a process of its own."""

    def __init__(self, bundle: Path, *arguments: str):
        self._bundle, self._arguments = bundle, arguments
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the server)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fastv_runtime.cli.serve", str(self._bundle), "--port", "0", "--json"]
        self.process = subprocess.Popen(
            [*command, *self._arguments], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"the server did not start: {self.log.read()}")
        self.url, self.model = (json.loads(line)[name] for name in ("url", "model"))

    def session(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.url, limits=limits, timeout=300)

    async def sample(self, every_s: float, samples: list[dict[str, float]]) -> None:
        """Resident memory in MiB, threads and open files, until it is cancelled."""
        process, start = psutil.Process(self.process.pid), time.monotonic()
        while True:
            with process.oneshot():
                samples.append(
                    {
                        "s": round(time.monotonic() - start, 1),
                        "rss_mib": round(process.memory_info().rss / 2**20, 1),
                        "threads": process.num_threads(),
                        "files": process.num_fds(),
                    }
                )
            await asyncio.sleep(every_s)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {f"p{each}": round(1000 * float(np.percentile(seconds, each)), 1) for each in (50, 95, 99)}


def flatness(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median resident memory of the second quarter of the time, and of the last: the first fills the caches."""
    rss = [each["rss_mib"] for each in samples]
    quarter = max(1, len(rss) // 4)
    early, late = float(np.median(rss[quarter : 2 * quarter])), float(np.median(rss[-quarter:]))
    return {
        "second_quarter_mib": early,
        "last_quarter_mib": late,
        "most_mib": max(rss),
        "ratio": round(late / early, 4),
    }


async def counted(session: httpx.AsyncClient) -> dict[str, float]:
    """Counters of the server's own."""
    lines = (await session.get("/metrics")).text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


async def killed(server: Server, question: Question, clients: int) -> dict[str, Any]:
    """kill -9 in the middle of streams, and a new start."""
    begun, ends = asyncio.Event(), []

    async def reader(session: httpx.AsyncClient) -> None:
        try:
            async for piece in over_http(session, NEVER_WHOLE)(question):
                if piece:
                    begun.set()
            ends.append("whole")
        except Refused:
            ends.append("refused")
        except (httpx.HTTPError, RuntimeError) as error:
            ends.append(type(error).__name__)

    async with server.session() as session:
        readers = [asyncio.create_task(reader(session)) for _ in range(clients)]
        await begun.wait()
        start = time.monotonic()
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        _, waiting = await asyncio.wait(readers, timeout=SLOWEST_END_S)
    seen = round(time.monotonic() - start, 3)
    server.start()
    async with server.session() as session:
        text = "".join([piece async for piece in over_http(session, NEVER_WHOLE)(question)])
    return {
        "clients": clients,
        "ends": dict(Counter(ends)),
        "without_an_end": len(waiting),
        "seconds_to_the_last_end": seen,
        "right_after_restart": text == question.expected,
    }


class NeverWhole(random.Random):
    """For requests that are all streamed."""

    def random(self) -> float:
        return 1.0


NEVER_WHOLE = NeverWhole()


async def run(server: Server, asked: Sequence[Question], clients: int, seconds: float) -> dict[str, Any]:
    samples: list[dict[str, float]] = []
    sampling = asyncio.create_task(server.sample(max(0.25, seconds / 300), samples))
    start = time.monotonic()
    async with server.session() as session:
        tally = await load(over_http(session, random.Random(0)), asked, clients, seconds)
        took = time.monotonic() - start
        metrics = await counted(session)
    sampling.cancel()
    outcomes = {
        name: metrics[f'fastv_requests_total{{outcome="{name}"}}']
        for name in ("stop", "length", "cancelled", "refused", "failed", "deadline")
    }
    return {
        "seconds": round(took, 1),
        "outcomes": dict(tally.outcomes),
        "wrong": tally.wrong[:20],
        "wrong_count": len(tally.wrong),
        "answers_per_s": round(tally.outcomes["answered"] / took, 2),
        "generated_tokens_per_s": round(metrics["fastv_generated_tokens_total"] / took, 1),
        "reused_share_of_prompt_tokens": round(
            metrics["fastv_reused_tokens_total"] / metrics["fastv_prompt_tokens_total"], 3
        ),
        "server_outcomes": outcomes,
        "ttft_ms": percentiles(tally.first),
        "whole_ms": percentiles(tally.whole),
        "memory": flatness(samples),
        "samples": samples[:: max(1, len(samples) // 60)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, help="folder of images, of the demo's drawings")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--clients", type=int, help="default: ten a slot")
    parser.add_argument("--queue", type=int, default=16)
    parser.add_argument("--cache-mb", type=int, default=16, help="little, so that it is full all the time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clients = args.clients or 10 * args.slots
    with Pipeline.load(args.bundle, threads=1) as pipeline:
        asked = questions(pipeline, sorted(args.images.glob("*.png")))
    server = Server(
        args.bundle, *(f"--{name}={value}" for name, value in asked_of(args).items()), "--model-name", "fastv"
    )
    try:
        report: dict[str, Any] = {"clients": clients, "questions": len(asked), **asked_of(args)}
        report |= asyncio.run(run(server, asked, clients, args.seconds))
        long = next(each for each in asked if each.name == LONG)
        report["kill"] = asyncio.run(killed(server, long, args.slots))
    finally:
        server.process.terminate()
        server.process.wait()
    print(json.dumps({name: value for name, value in report.items() if name != "samples"}, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    kill = report["kill"]
    fine = not report["wrong_count"] and not kill["without_an_end"] and kill["right_after_restart"]
    raise SystemExit(0 if fine else 1)


if __name__ == "__main__":
    main()
