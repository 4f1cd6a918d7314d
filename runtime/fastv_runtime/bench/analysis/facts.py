"""What a report records of bundles."""

from __future__ import annotations

from fastv_runtime.bench.models import BundleFacts
from fastv_runtime.config.bundle import MANIFEST, Bundle, sha256
from fastv_runtime.config.plan import Plan
from fastv_runtime.tensorrt_build.preflight import weight_bytes


def bundle_facts(bundle: Bundle, plan: Plan, self_test: dict[str, float]) -> BundleFacts:
    """The facts of an opened bundle. plan: as it runs. self_test: what its engines differ by on this device."""
    manifest = bundle.manifest
    graphs = manifest.plan.decoder_graphs
    return BundleFacts(
        path=str(bundle.path),
        sha256=sha256(bundle.file(MANIFEST)),
        family=manifest.family,
        source=manifest.source,
        versions=manifest.versions,
        decoder=manifest.decoder,
        plan=plan,
        dialect=manifest.graphs[graphs[0]].dialect,
        decoder_bytes=sum(weight_bytes(manifest, name) for name in graphs),
        self_test=self_test,
    )


def names(paths: list[str]) -> list[str]:
    """What to call bundles: the end of each path, without `.fastv`, as far back as it takes to tell them apart."""
    parts = [
        [part for part in path.removesuffix("/").removesuffix(".fastv").split("/") if part != "."] for path in paths
    ]
    called = ["/".join(each[-1:]) for each in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        called = [
            name if called.count(name) == 1 else "/".join(each[-depth:])
            for name, each in zip(called, parts, strict=True)
        ]
    return called
