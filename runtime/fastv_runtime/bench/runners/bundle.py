"""A bundle as a runner."""

from __future__ import annotations

import gc
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from fastv_runtime.backends.openvino.graphs import load_openvino
from fastv_runtime.backends.registry import backend_for
from fastv_runtime.bench.protocol import Measurement, Request
from fastv_runtime.bench.runners.gate import pass_self_test
from fastv_runtime.config.base import StrictModel
from fastv_runtime.config.bundle import Bundle, Manifest, read_manifest
from fastv_runtime.config.lengths import with_keep
from fastv_runtime.config.plan import Length, Plan
from fastv_runtime.config.wording import cuts_of, dialect_of, precision_of, share_of
from fastv_runtime.errors import UserError
from fastv_runtime.generation.calls.keep import Keep, read_keep
from fastv_runtime.generation.clock import in_stages
from fastv_runtime.generation.pipeline import Pipeline
from fastv_runtime.hf import import_library
from fastv_runtime.preprocessing.images.loading import open_image


class BackendChoice(StrictModel):
    """Which bundle, and how it runs."""

    path: str
    name: str
    backend: str | None = None
    device: str | None = None
    compute: str | None = None
    threads: int | None = None
    """Of one operator; None means one per physical core that the process may use."""
    keep: Keep | None = None
    share: float | None = None
    length: Length | None = None
    """Of every request; None means the bundle's own."""

    def plan(self, manifest: Manifest) -> Plan:
        """The plan of a bundle as it runs here."""
        asked = read_keep(manifest.plan, self.keep, self.share)
        plan = manifest.plan if asked.keep is None else with_keep(manifest.plan, asked.keep)
        return plan.model_copy(update={"share": asked.share, "length": self.length or plan.length})


class BundleRunner:
    """A loaded bundle that has passed its self-test."""

    def __init__(self, choice: BackendChoice, pipeline: Pipeline, self_test: dict[str, float]):
        self.name = choice.name
        self._choice = choice
        self.self_test = self_test
        self.settings = plan_settings(choice, pipeline.bundle.manifest) | {"backend": pipeline.backend.name}
        self.pipeline: Pipeline | None = pipeline

    @classmethod
    def load(cls, choice: BackendChoice, bundle: Bundle | None = None) -> BundleRunner:
        """Load a bundle and test it. `bundle`: opened by somebody who has checked its hashes; None: not checked again.

        Raises UserError where it cannot be loaded, Refused where it fails its self-test.
        """
        bundle = bundle or Bundle(Path(choice.path), read_manifest(choice.path))
        pipeline = Pipeline(
            bundle, threads=choice.threads, backend=choice.backend, device=choice.device, compute=choice.compute
        )
        return cls(choice, pipeline, pass_self_test(bundle, pipeline.backend))

    def run(self, request: Request) -> Measurement:
        """One turn. Raises UserError for a request that the bundle does not support."""
        assert self.pipeline is not None, "this runner was closed"
        images = [_decoded(path) for path in request.images]
        gc.collect()  # of what earlier turns left, before the clock starts
        answer = self.pipeline.generate(
            images,
            request.prompt,
            max_new_tokens=request.new_tokens,
            length=self._choice.length,
            keep=self._choice.keep,
            share=self._choice.share,
            ignore_stop=True,
        )
        timings = answer.timings_ms
        return Measurement(
            stages_ms=in_stages(timings),
            ttft_ms=timings["ttft"],
            decode_ms=timings["decode_per_token"] if request.new_tokens > 1 else None,
            prompt_tokens=answer.prompt_tokens,
            visual_tokens=answer.visual_tokens,
            pruned_length=answer.pruned_length,
            pruned_lengths=tuple(cut.pruned_length for cut in answer.cuts),
        )

    def close(self) -> None:
        if self.pipeline is not None:
            self.pipeline.close()
        self.pipeline = None


def import_libraries(choice: BackendChoice) -> None:
    """Load what any bundle on that backend needs, so that what comes after is the bundle's own."""
    import_library()
    with suppress(ImportError, UserError):  # loading the bundle says it
        dialects = {graph.dialect for graph in read_manifest(Path(choice.path)).graphs.values()}
        if (choice.backend or backend_for(dialects)) == "openvino":
            load_openvino()
        else:
            import_module("onnxruntime")


def plan_settings(choice: BackendChoice, manifest: Manifest) -> dict[str, str]:
    """The plan that a bundle runs with, for the reader of a report."""
    plan, own = choice.plan(manifest), manifest.plan.keep
    precision = precision_of(plan, dialect_of(manifest.graphs))
    if not plan.prunes:
        return {"plan": "not pruned", "precision": precision}
    exported = "" if plan.keep == own else f" (exported with keep {own:g})"
    length = "" if choice.length is None else f", {choice.length} length"
    return {"plan": f"{cuts_of(plan)}{share_of(plan.share, plan.keep_steps)}{exported}{length}", "precision": precision}


@lru_cache(maxsize=32)
def _decoded(path: str) -> Image.Image:
    return open_image(path)
