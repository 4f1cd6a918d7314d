"""What a training run carries from one process to the next."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

_SAVE_EVERY = 120.0  # seconds

M = TypeVar("M", bound=nn.Module)


class Budget:
    """Wall-clock minutes a process may train for; None means until the steps are done."""

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def spent(self) -> bool:
        return self.end is not None and time.monotonic() > self.end


@dataclass
class Training(Generic[M]):
    """A model in training with its place on disk; what is exported of it, a subclass says."""

    model: M
    processor: LlavaProcessor
    state_file: Path
    checkpoint: Path
    budget: Budget
    seed: int
    done: dict[str, int] = field(default_factory=dict)  # steps taken, per phase
    seconds: dict[str, float] = field(default_factory=dict)  # training time, per phase
    best: float = 0.0  # held-out accuracy of the exported checkpoint
    console: Console = field(default_factory=Console)
    _optimizer: dict[str, Any] | None = None
    _saved: float = 0.0

    def resume(self, *, fresh: bool) -> None:
        """Take up the state file where there is one."""
        if fresh or not self.state_file.exists():
            return
        state = torch.load(self.state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.done, self.seconds, self._optimizer = state["done"], state["seconds"], state["optimizer"]
        self.best = state.get("best", 0.0)
        self.console.print(f"resuming at {self.done}")

    def left(self, phase: str, total: int) -> int:
        """Steps of a phase that are still to take."""
        return max(0, total - self.done.get(phase, 0))

    def optimizer(
        self, parameters: Sequence[Tensor], phase: str, slow: Sequence[Tensor] = (), pace: float = 1.0
    ) -> torch.optim.AdamW:
        """AdamW over `parameters`, with the moments of the phase that was interrupted.

        `slow` ones are groups of their own, whose "pace" the learning rate is to be multiplied by.
        """
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": 0.03},
            {"params": vectors, "weight_decay": 0.0},
        ]
        groups.append({"params": list(slow), "weight_decay": 0.0, "pace": pace})
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        if self._optimizer is not None and self._optimizer["phase"] == phase:
            optimizer.load_state_dict(self._optimizer["state"])
        return optimizer

    def steps(self, phase: str, total: int, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        """Steps still to take in a phase; shows progress, saves on the way, stops when the time is up."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._saved = time.monotonic()
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(phase, total=total, completed=self.done.get(phase, 0), note="")
            while (step := self.done.get(phase, 0)) < total:
                started = time.monotonic()
                self.done[phase] = step + 1  # saved only once the step is taken
                yield step
                self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started
                progress.update(task, completed=step + 1)
                if time.monotonic() - self._saved > _SAVE_EVERY or step + 1 == total or self.budget.spent():
                    self.save(phase, optimizer)
                if self.budget.spent():
                    raise SystemExit(f"time is up at {phase} step {step + 1}; run again to resume")

    def save(self, phase: str, optimizer: torch.optim.Optimizer) -> None:
        """Write the state file, whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "done": self.done,
            "seconds": self.seconds,
            "best": self.best,
            "optimizer": {"phase": phase, "state": optimizer.state_dict()},
        }
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.state_file.with_suffix(".new")
        torch.save(state, scratch)
        scratch.replace(self.state_file)
        self._saved = time.monotonic()

    def record(self) -> dict[str, Any]:
        """How the weights came about, for the model card."""
        return {
            "seed": self.seed,
            "steps": self.done,
            "minutes": {phase: round(seconds / 60, 1) for phase, seconds in self.seconds.items()},
            "validation_exact_match": self.best,
        }

    def export_if_best(self, accuracy: float) -> None:
        """Export unless an earlier step of this run did better."""
        if accuracy >= self.best:
            self.best = accuracy
            self.export()

    def export(self) -> None:
        """Write what the training is for, each file whole or not at all."""
        raise NotImplementedError


class Run(Training[LlavaForConditionalGeneration]):
    """Training of a whole model, of which a checkpoint is written."""

    def export(self) -> None:
        """Write the checkpoint directory beside the old one, then put each file in its place."""
        scratch = self.state_file.parent / "checkpoint"
        shutil.rmtree(scratch, ignore_errors=True)
        self.model.save_pretrained(scratch)
        self.processor.save_pretrained(scratch)
        (scratch / "training.json").write_text(json.dumps(self.record(), indent=1) + "\n", encoding="utf-8")
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        for file in scratch.iterdir():
            file.chmod(0o644)
            file.replace(self.checkpoint / file.name)


def learning_rate(step: int, total: int, peak: float, *, warmup: int = 100, decay: float = 0.3) -> float:
    """Linear warm-up, a plateau, and a cosine to almost nothing over the last `decay` share of the steps."""
    start = total * (1 - decay)
    if step < warmup:
        return peak * (step + 1) / warmup
    if step < start:
        return peak
    return peak * (0.02 + 0.98 * 0.5 * (1 + cos(pi * (step - start) / (total - start))))
