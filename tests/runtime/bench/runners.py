"""Runners that take the time they are told to, and reports of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastv_runtime.bench.analysis.noise import noise
from fastv_runtime.bench.analysis.summary import ratios, results
from fastv_runtime.bench.machine.conditions import Conditions
from fastv_runtime.bench.machine.environment import Environment
from fastv_runtime.bench.models import (
    REPORT_VERSION,
    BenchSettings,
    BundleFacts,
    MemoryFigures,
    Report,
    Round,
    RunnerRecord,
    WorkloadRecord,
)
from fastv_runtime.bench.protocol import Measurement, Refused, Request
from fastv_runtime.bench.workloads import Workload
from fastv_runtime.config.bundle import DecoderConfig
from fastv_runtime.config.cuts import one_cut
from fastv_runtime.config.plan import Plan

TEXT, VISUAL, KEPT = 64, 576, 288
DECODER = DecoderConfig(
    hidden_size=896,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=4864,
    vocab_size=8000,
    gated_mlp=True,
)
DENSE = Plan(
    cuts=one_cut(None, 1.0),
    length="exact",
    precision="float32",
    max_text=64,
    max_visual=576,
    max_new_tokens=32,
)
PRUNED = DENSE.model_copy(update={"cuts": one_cut(2, 0.5)})
CHAIN = PRUNED.model_copy(update={"cuts": (*one_cut(2, 0.5), *one_cut(8, 0.25))})
WORKLOAD = Workload("576 visual tokens", Request(images=(), prompt="What?", new_tokens=8))


def turn(prefill: float = 100.0, decode: float | None = 10.0, pruned: int | Sequence[int] = ()) -> Measurement:
    """A turn with 20 ms of vision and 2 of preprocessing. pruned: tokens after the one cut, or after each."""
    lengths = (pruned,) if isinstance(pruned, int) else tuple(pruned)
    stages = {"preprocess": 2.0, "vision": 20.0, "prefix": 0.0, "select": 0.0, "suffix": prefill}
    return Measurement(
        stages_ms=stages,
        ttft_ms=sum(stages.values()) + 1,
        decode_ms=decode,
        prompt_tokens=TEXT + VISUAL,
        visual_tokens=VISUAL,
        pruned_length=(TEXT + VISUAL, *lengths)[-1],
        pruned_lengths=lengths,
    )


class Told:
    """Does as it is told, and writes down in `asked` who was asked."""

    def __init__(self, name: str, answer: Callable[[], Measurement], asked: list[str] | None = None):
        self.name, self.settings = name, {"threads": "1"}
        self._answer = answer
        self._asked = [] if asked is None else asked

    def run(self, request: Request) -> Measurement:
        self._asked.append(self.name)
        return self._answer()

    def close(self) -> None:
        pass


def refusing(reason: str) -> Callable[[], Measurement]:
    def answer() -> Measurement:
        raise Refused(reason)

    return answer


def record(name: str, plan: Plan) -> RunnerRecord:
    facts = BundleFacts(
        path=f"{name}.fastv",
        sha256="0" * 64,
        family="llava",
        source={"config.json": "1"},
        versions={},
        decoder=DECODER,
        plan=plan,
        dialect="ort",
        decoder_bytes=1_400_000_000,
        self_test={"suffix": 1e-6},
    )
    return RunnerRecord(
        name=name,
        role="bundle" if plan.prunes else "baseline",
        settings={"precision": plan.precision},
        bundle=facts,
        memory=MemoryFigures(
            weights=1400 << 20, caches=20 << 20, libraries=60 << 20, process=1700 << 20, workspace=220 << 20
        ),
    )


ENVIRONMENT = Environment(
    device="a board",
    architecture="aarch64",
    cores=6,
    usable=6,
    memory=8 << 30,
    system="Linux",
    python="3.10.12",
    gpu={},
    jetson={"power_mode": "MAXN_SUPER"},
    governor="schedutil",
    versions={"onnxruntime": "1.23.0"},
)
QUIET = Conditions(
    seconds=60.0, load_of_others=0.01, cpu_mhz=None, temperatures={"tj": (45.0, 52.0)}, throttled={}, gpu_mhz=None
)


def report_of(
    turns: dict[str, Sequence[Measurement]],
    *,
    plans: dict[str, Plan] | None = None,
    conditions: Conditions = QUIET,
    complete: bool = True,
    joules: float | None = None,
) -> Report:
    """A report of one workload; names that begin with `dense` are baselines unless `plans` says otherwise.

    joules: of every turn.
    """
    known = plans or {name: DENSE if name.startswith("dense") else PRUNED for name in turns}
    runners = tuple(record(name, plan) for name, plan in known.items())
    rounds = tuple(
        Round(index=index, workload=WORKLOAD.name, runner=name, turn=_turn_of(known[name], each), joules=joules)
        for name, several in turns.items()
        for index, each in enumerate(several)
    )
    found = results(rounds, runners)
    return Report(
        schema_version=REPORT_VERSION,
        version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        command="fastv-bench dense.fastv pruned.fastv",
        complete=complete,
        settings=BenchSettings(rounds=len(rounds), warmup=0, threads=1, backend="ort", device="cpu"),
        environment=ENVIRONMENT,
        conditions=conditions,
        profiles=(),
        noise=tuple(noise(conditions, found)),
        runners=runners,
        workloads=(
            WorkloadRecord(
                name=WORKLOAD.name,
                images=(),
                prompt="What?",
                new_tokens=8,
                prompt_tokens=TEXT + VISUAL,
                visual_tokens=VISUAL,
            ),
        ),
        rounds=rounds,
        results=tuple(found),
        ratios=tuple(ratios(rounds, runners)),
        notes=(),
    )


def _turn_of(plan: Plan, turn: Measurement) -> Measurement:
    """Of a plan that prunes and a turn that says nothing of it: one of which nothing was pruned."""
    whole = (turn.pruned_length,) * len(plan.cuts)
    return turn.model_copy(update={"pruned_lengths": turn.pruned_lengths or whole})
