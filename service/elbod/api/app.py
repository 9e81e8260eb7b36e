"""The ASGI application."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from elbod import __version__
from elbod.api import admin, document, links, models, pages, problems, routes, security
from elbod.api.budget import Held
from elbod.api.logs import RequestLog
from elbod.api.service import Service
from elbod.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The application of one worker process. Raises StartupError."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.life():
            yield

    exports = any(name.startswith("OTEL_") for name in os.environ)
    app = FastAPIOffline(
        title="elbod",
        summary="The ELBO daemon: sample, encode and score with VAE-style generative models.",
        version=__version__,
        lifespan=lifespan,
        root_path=settings.root_path,
        static_url=security.DOCS_FILES,
        # A redirect would lead to whatever host the request names.
        redirect_slashes=False,
        # Where OTEL_EXPORTER_OTLP_ENDPOINT says. Without it, each request would look for three providers.
        telemetry={"auto_configure": exports, "tracing": exports, "metrics": exports, "logs": exports},
    )
    app.state.service = service
    # First, and not included: every request would pay for the look through other routes and a router within a router.
    app.router.routes[:0] = routes.router.routes
    app.include_router(links.router)
    app.include_router(models.router)
    app.include_router(admin.router)
    app.include_router(pages.router)
    document.install(app, settings)
    app.add_middleware(Held, budget=service.budget)
    security.install(app, settings)
    app.add_middleware(RequestLog, ended=service.metrics.ended)
    problems.install(app)
    return app
