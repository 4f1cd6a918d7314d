"""fastv-serve's application as replicas on a Ray cluster: see docs/serving.md.

serve run --app-dir examples ray_serve:app bundle=/srv/demo.fastv max_replicas=4
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from fastv_runtime.config.bundle import Bundle
from fastv_runtime.generation.model import Model
from fastv_runtime.serving.app import create_app
from fastv_runtime.serving.metrics import Metrics
from fastv_runtime.serving.scheduler import Scheduler
from fastv_runtime.serving.settings import ServeSettings, read_keys

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Requests with the same x-session-id go to the same replica while it lives; others to any."""


class Arguments(BaseModel):
    """What follows `ray_serve:app` on the command line, or stands under `args` in Serve's config file."""

    model_config = ConfigDict(extra="forbid")

    bundle: Path
    """On every node, at the same place."""
    backend: str = "ort"
    device: str | None = None
    gpus: float = Field(default=0, ge=0)
    """Of a replica, or a part of one."""
    threads: int = Field(default=1, ge=1)
    """Of a replica, and cores that Ray keeps for it."""
    slots: int = Field(default=1, ge=1)
    """Conversations that a replica answers at the same time."""
    waiting: int = Field(default=4, ge=0)
    """Requests that wait for a slot in a replica; more wait in the proxy."""
    queue: int = Field(default=64, ge=0)
    """Requests that wait in a proxy; more are answered 429."""
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    drain_s: float = Field(default=60, gt=0)
    """Seconds that a replica which is scaled away has for the answers it is at."""
    api_key_file: Path | None = None


@serve.ingress()
class Replica:
    """One model and its scheduler; Ray restarts it when it dies or `check_health` fails."""

    def __init__(self, arguments: Arguments):
        model = Model(
            Bundle.open(arguments.bundle),
            threads=arguments.threads,
            backend=arguments.backend,
            device=arguments.device,
        )
        self.scheduler = Scheduler(model, slots=arguments.slots, waiting=arguments.waiting, metrics=Metrics())
        keys = () if arguments.api_key_file is None else read_keys(arguments.api_key_file)
        settings = ServeSettings(model_name=arguments.bundle.name.removesuffix(".fastv"), key_hashes=keys)
        self.application = create_app(self.scheduler, model, settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self.application

    def check_health(self) -> None:
        if not self.scheduler.ready:
            raise RuntimeError("the thread that runs the graphs has ended")

    def __del__(self) -> None:
        self.scheduler.stop(0)  # Ray has waited for the answers in progress


def app(arguments: Arguments) -> serve.Application:
    """What `serve run` runs."""
    ongoing = arguments.slots + arguments.waiting
    deployment = serve.deployment(
        name="fastv",
        ray_actor_options={"num_cpus": arguments.threads, "num_gpus": arguments.gpus},
        max_ongoing_requests=ongoing,
        max_queued_requests=arguments.queue,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=arguments.slots,
        ),
        request_router_config={"request_router_class": ROUTER},
        graceful_shutdown_timeout_s=arguments.drain_s,
    )
    return deployment(Replica).bind(arguments)
