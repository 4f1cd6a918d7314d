"""The server as an ASGI application: routes, and what every request passes before it comes to one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fastv_runtime.generation.model import Model
from fastv_runtime.serving.access import Gate
from fastv_runtime.serving.errors import ApiError, answer_api_error, answer_failure, answer_http_error
from fastv_runtime.serving.openai.completions import Completions
from fastv_runtime.serving.openai.models import model_object
from fastv_runtime.serving.page_response import page_response
from fastv_runtime.serving.settings import ServeSettings
from fastv_runtime.versions import __version__

if TYPE_CHECKING:
    from fastv_runtime.serving.scheduler import Scheduler

Check = Callable[[Request], Awaitable[None]]
"""A dependency: what it raises is the answer."""


PROBED = ["GET", "HEAD"]
"""How load balancers ask."""


def create_app(scheduler: Scheduler, model: Model, settings: ServeSettings) -> FastAPI:
    """The application that answers by `scheduler`, which runs `model`. Neither is stopped at its end."""
    gate = Gate(settings)
    completions = Completions(scheduler, model.manifest, settings, gate)
    created = int(time.time())
    app = FastAPI(
        title="fastv-serve",
        version=__version__,
        # The pages that FastAPI makes of these load scripts from elsewhere.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(_host_checked(gate))],
    )
    for kind, answer in ((ApiError, answer_api_error), (HTTPException, answer_http_error), (Exception, answer_failure)):
        app.add_exception_handler(kind, answer)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    keyed = [Depends(_key_checked(gate))]

    @app.post("/v1/chat/completions", dependencies=keyed)
    async def chat_completions(request: Request) -> Response:
        return await completions(request)

    @app.get("/v1/models", dependencies=keyed)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_object(model.manifest, settings, created)]}

    @app.get("/v1/models/{name:path}", dependencies=keyed)
    async def one_model(name: str) -> dict[str, Any]:
        completions.check_model(name)
        return model_object(model.manifest, settings, created)

    @app.get("/metrics", dependencies=keyed)
    async def metrics() -> Response:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Response(generate_latest(scheduler.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.api_route("/health", methods=PROBED)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.api_route("/health/ready", methods=PROBED)
    async def ready() -> JSONResponse:
        if scheduler.ready:
            return JSONResponse({"status": "ready", "running": scheduler.running, "waiting": scheduler.waiting})
        return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "5"})

    @app.api_route("/", methods=PROBED)
    async def page() -> Response:
        return page_response()

    return app


def _host_checked(gate: Gate) -> Check:
    async def check(request: Request) -> None:
        gate.check_host(request)

    return check


def _key_checked(gate: Gate) -> Check:
    async def check(request: Request) -> None:
        gate.check_key(request)

    return check
