"""The service as one application: what a request passes, and the routes that answer it.

    RequestLog ──► HeadGuard ──► NameGuard ──► BodyGuard (key) ──► gzip ──► PathGuard ──► routes ──► store

`create_app` opens the store and reads nothing else; `python -m api` runs it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware

from api.access import Access, refusal
from api.bodies import BodyGuard
from api.description import describe
from api.finding import Finder
from api.folders import Folders
from api.metrics import Metrics
from api.middleware import HeadGuard, NameGuard, RequestLog
from api.pages import pages
from api.pages.access import OPEN_FORMS
from api.pages.render import as_page, show_errors_as_pages
from api.paths import PathGuard, Paths
from api.problems import add_handlers
from api.query import refuse_unknown
from api.routes import health, mirror, v1
from api.seats import Seats
from api.spool import Spool
from labeler import __version__
from labeler.settings import Settings
from labeler.store import open_store
from labeler.terms import JobKind

log = logging.getLogger(__name__)

_ABOUT = """Labels of the features of sparse autoencoders, with scores that say how far to trust each.

Lists are paged by opaque cursors. Errors are `application/problem+json`. An undefined score is null, with its reason.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Raises StorageError, FormatError or InputError where the database cannot be opened."""
    settings = settings or Settings.from_environment()
    store = open_store(settings.database, pooled=True)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.finder.aclose()
        app.state.spool.close()
        store.close()

    app = FastAPI(
        title="labeler",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,  # which fetch their scripts from elsewhere; pages/reference.py answers at /docs
        dependencies=[Depends(refuse_unknown)],
    )
    app.state.store, app.state.settings, app.state.paths = store, settings, Paths(settings.data)
    app.state.access, app.state.folders = Access(store, settings.redis), Folders()
    app.state.metrics = Metrics(store, _queue_depths if settings.redis else dict)
    app.state.spool, app.state.finder = Spool(), Finder(store, settings)
    app.state.watchers = Seats("streams of events", 200, 20)  # each asks the database once a second
    app.state.downloads = Seats("exports", 64, 8)  # each has a file open, or a thread for each of its pieces
    describe(app)
    add_handlers(app)
    app.include_router(v1)
    app.include_router(health.router)
    app.include_router(mirror.router)
    app.include_router(pages)
    show_errors_as_pages(app)
    # The last one added is the first one passed.
    app.add_middleware(PathGuard, paths=app.state.paths)
    app.add_middleware(
        GZipMiddleware,
        minimum_size=1000,
        compresslevel=5,
        exclude_content_types=(*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/vnd.apache.parquet"),
    )

    async def shown_refusal(request: Request) -> Response | None:
        answer = await refusal(request)
        return None if answer is None else await as_page(request, answer)

    app.add_middleware(BodyGuard, refusal=shown_refusal, open_paths=OPEN_FORMS)
    app.add_middleware(NameGuard, hosts=settings.hosts)
    app.add_middleware(HeadGuard)
    app.add_middleware(RequestLog, metrics=app.state.metrics, shown=as_page)
    return app


def _queue_depths() -> dict[str, int]:
    from workers.enqueue import QUEUES, n_queued

    try:
        return {QUEUES[kind]: n_queued(kind) for kind in JobKind}
    except Exception as error:  # what is thrown depends on where the connection broke; figures must not fail for it
        log.warning("the queue does not answer", extra={"error": type(error).__name__})
        return {}
