"""The HTTP interface of a ranker: FastAPI. Every answer is JSON, errors, too."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints
from starlette.exceptions import HTTPException

from lemur_mini import __version__
from lemur_mini.data.errors import DataError
from lemur_mini.errors import Mendable
from lemur_mini.files import one_line
from lemur_mini.serving.gate import MOST, gated
from lemur_mini.serving.journal import Journal, documents_line, event_line
from lemur_mini.serving.metrics import Metrics
from lemur_mini.serving.nearest import Nearest
from lemur_mini.serving.ranker import Ranker
from lemur_mini.serving.together import Together

AHEAD = 60  # seconds that a client's clock may be ahead of ours
Id = StrictInt | Annotated[str, StringConstraints(strict=True, max_length=200)]
Text = Annotated[str, StringConstraints(strict=True, max_length=20_000)]
Query = Annotated[str, StringConstraints(strict=True, max_length=1000)]


class Body(BaseModel):
    """What a request holds; anything else in it is an error."""

    model_config = ConfigDict(extra="forbid")


class ToRank(Body):
    """A page to be ranked, documents by their item_id."""

    user: Id
    query: Query = ""
    items: Annotated[list[Id], Field(min_length=1, max_length=1000)]


class ToRetrieve(Body):
    """A query whose nearest documents are wanted."""

    query: Query
    count: Annotated[StrictInt, Field(ge=1, le=1000)] = 10


class Seen(Body):
    """What a user was shown: watched, or skipped. time: unix seconds, now if none."""

    user: Id
    item: Id
    time: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None
    watched: Annotated[bool, Field(strict=True)] = True


class Document(BaseModel):
    """A new document: text fields as the catalogue has them; image: base64."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Text | None]
    item_id: Id
    image: Annotated[str, StringConstraints(max_length=8 * 2**20)] | None = None


class ToAdd(Body):
    """New documents, all of them or none."""

    documents: Annotated[list[Document], Field(min_length=1, max_length=64)]


def make_app(
    ranker: Ranker,
    journal: Journal | None = None,
    token: str | None = None,
    most: int = MOST,
) -> Callable:
    """The ASGI application of a ranker. journal: where what is acknowledged is kept;
    token: that every request but /health has to bring; most: bytes of a body."""
    app = FastAPI(
        title="lemur_mini", version=__version__, docs_url=None, redoc_url=None
    )
    known = ranker.known
    sizes = {
        "documents": lambda: ranker.model.sizes.documents,
        "users": lambda: len(known.names["users"]) + len(known.guests),
    }
    paths = {f"/{n}" for n in ("rank", "retrieve", "watched", "documents", "health")}
    metrics = Metrics(paths | {"/metrics", "/docs", "/openapi.json"}, sizes)
    _questions(app, ranker)
    _news(app, ranker, journal)
    _about(app, ranker, metrics)
    _errors(app)
    return metrics.middleware(gated(app, token, most))


def _questions(app: FastAPI, ranker: Ranker) -> None:
    nearest, together = Nearest(), Together(ranker)

    @app.post("/rank")
    def rank(page: ToRank):
        """Documents by their chance of a watch, best first."""
        rows = ranker.rows_of(page.items)
        ranked = together.rank((page.user, page.query, rows))
        pairs = zip(ranker.ids_of(ranked.items), ranked.chance.tolist(), strict=True)
        who = {"user": ranker.known.place(page.user) >= 0}
        who["query"] = page.query in ranker.queries
        return {"ranked": [{"item": i, "chance": c} for i, c in pairs], "known": who}

    @app.post("/retrieve")
    def retrieve(asked: ToRetrieve):
        """The documents whose vectors are nearest to the query's, best first."""
        model, vector = ranker.model, ranker.query_vector(asked.query)
        rows, cosines = nearest.search(model, vector, asked.count)
        pairs = zip(ranker.ids_of(rows), cosines.tolist(), strict=True)
        return {"found": [{"item": item, "cosine": c} for item, c in pairs]}


def _news(app: FastAPI, ranker: Ranker, journal: Journal | None) -> None:
    def record(line: list) -> None:
        if journal is not None:
            journal.append(line)

    @app.post("/watched")
    def watched(seen: Seen):
        """Take in what a user was shown. Once answered, it is not lost."""
        now = time.time()
        when = now if seen.time is None else seen.time
        if when > now + AHEAD:
            raise DataError(f"time {when} is in the future; give unix seconds")
        event = ranker.event(seen.item, when, seen.watched)
        record(event_line(seen.user, event))
        ranker.take(seen.user, event)
        return {"taken": True}

    @app.post("/documents")
    def documents(new: ToAdd):
        """Add documents: rankable at once, and once answered, not lost."""
        given = [_decoded(document, k) for k, document in enumerate(new.documents)]
        rows = ranker.add_documents(given, lambda some: record(documents_line(some)))
        return {"added": len(rows), "documents": ranker.model.sizes.documents}


def _decoded(document: Document, place: int) -> dict:
    out = document.model_dump(exclude_unset=True)
    if out.get("image") is not None:
        try:
            out["image"] = base64.b64decode(out["image"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(
                f"new documents, column image, row {place}: is no base64 "
                f"({one_line(error)}); encode the file's bytes"
            ) from error
    return out


def _about(app: FastAPI, ranker: Ranker, metrics: Metrics) -> None:
    @app.get("/health")
    def health():
        """Whether it serves, and what."""
        config, data = ranker.model.config, ranker.known.parts.get("data")
        about = {"status": "ok", "version": __version__, "scale": config.scale}
        return about | {"documents": ranker.model.sizes.documents, "data": data}

    @app.get("/metrics", response_class=Response)
    def text():
        """Counts and seconds in Prometheus's text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs():
        return HTMLResponse(PAGE)


# FastAPI's own page loads its script from elsewhere; this one reads only /openapi.json.
PAGE = """<!doctype html><meta charset="utf-8"><title>lemur_mini</title>
<style>body{font:15px sans-serif;max-width:50em;margin:2em auto}pre{background:#eee;
padding:.6em;overflow:auto}</style><h1>lemur_mini</h1>
<p>The interface as <a href="openapi.json">OpenAPI</a>.</p><main></main><script>
fetch("openapi.json").then((r) => r.json()).then((api) => {
  const add = (tag, text) => document.querySelector("main").appendChild(
    Object.assign(document.createElement(tag), {textContent: text}));
  for (const [path, ways] of Object.entries(api.paths))
    for (const [way, about] of Object.entries(ways)) {
      add("h2", way.toUpperCase() + " " + path); add("p", about.description || "");
      const body = about.requestBody?.content["application/json"].schema.$ref;
      if (body) add("pre", JSON.stringify(
        api.components.schemas[body.split("/").pop()], null, 1));
    }
});</script>"""


def _errors(app: FastAPI) -> None:
    def said(status: int, text: str) -> JSONResponse:
        text = text.encode("utf-8", "replace").decode("utf-8")
        return JSONResponse({"error": text}, status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return said(422, f"{place}: {first['msg']}"[:500])

    @app.exception_handler(DataError)
    def bad(request: Request, error: DataError):
        return said(400, one_line(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException):
        return said(error.status_code, str(error.detail))

    @app.exception_handler(Mendable)  # a full disk, a store that is gone
    def failed(request: Request, error: Mendable):
        return said(503, one_line(error))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception):
        return said(500, f"{type(error).__name__}; the server's log says more")
