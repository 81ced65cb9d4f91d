"""The addresses of the explorer: the page, the images by their numbers, and what the page asks.

Everything that changes something is a POST of a JSON object with the number of the last entry of
the journal that the page knows; 409 says that there are later ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scan_tf.errors import ScanError
from scan_tf.explorer.guard import Guard, Keys
from scan_tf.explorer.session import Session, Stale

# A selection of 100,000 images has less than 700 KB.
_MOST_BYTES = 4 * 2**20
_KINDS = {
    "icon.svg": "image/svg+xml",
    "page.css": "text/css",
    "app.js": "text/javascript",
    "dialogs.js": "text/javascript",
    "grid.js": "text/javascript",
    "map.js": "text/javascript",
    "plane.js": "text/javascript",
    "server.js": "text/javascript",
}
# Those that the report has in it too.
_SHARED = ("plane.js",)
# An address of an image has the key of the session in it, so that it never means another one.
_KEEP = {"Cache-Control": "private, max-age=86400, immutable"}
_log = logging.getLogger(__name__)


class BadRequest(Exception):
    """A request that no page of ours sends; the text says what is wrong."""


def application(session: Session, keys: Keys) -> Starlette:
    """The web application of a session."""
    files = {name: _file(name) for name in ("page.html", *_KINDS)}

    def page(_: Request) -> Response:
        return Response(files["page.html"], media_type="text/html")

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _KINDS:
            return _error(404, "no such file")
        return Response(files[name], media_type=_KINDS[name])

    def picture(make: Callable[[int], bytes]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            row = request.path_params["row"]
            if row >= session.num_images:
                return _error(404, f"there are {session.num_images} images")
            try:
                return Response(make(row), media_type="image/webp", headers=_KEEP)
            except (ScanError, OSError) as error:
                _log.warning("%s", error)
                return _error(404, "the file of the image is gone or damaged")

        return answer

    def facts(request: Request) -> Response:
        row = request.path_params["row"]
        if row >= session.num_images:
            return _error(404, f"there are {session.num_images} images")
        return JSONResponse(session.facts(row))

    def octets(content: bytes) -> Response:
        return Response(content, media_type="application/octet-stream")

    def near(body: dict[str, Any]) -> Any:
        rows, count = body.get("rows"), body.get("count")
        if not isinstance(rows, list) or not rows or not all(map(_is_int, rows)):
            raise BadRequest("rows: expected a list of numbers")
        if not all(0 <= row < session.num_images for row in rows):
            raise BadRequest(f"rows: expected 0 to {session.num_images - 1}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise BadRequest("count: expected a number from 1")
        return session.near(rows, count)

    def act(body: dict[str, Any]) -> Any:
        action = body.get("action")
        if not isinstance(action, dict):
            raise BadRequest("action: expected an object")
        return session.act(_seq(body), action)

    routes = [
        Route("/", page),
        Route("/static/{name}", static),
        Route("/thumb/{row:int}", picture(session.images.pictures.thumbnail)),
        Route("/image/{row:int}", picture(session.images.pictures.large)),
        Route("/api/state", lambda _: JSONResponse(session.state())),
        Route("/api/images", lambda _: octets(session.packed())),
        Route("/api/points", lambda _: octets(session.images.points())),
        Route("/api/image/{row:int}", facts),
        Route("/api/near", _posted(session, near), methods=["POST"]),
        Route("/api/apply", _posted(session, lambda b: session.propose(_seq(b))), methods=["POST"]),
        Route("/api/accept", _posted(session, lambda b: session.accept(_seq(b))), methods=["POST"]),
        Route(
            "/api/discard", _posted(session, lambda b: session.discard(_seq(b))), methods=["POST"]
        ),
        Route("/api/act", _posted(session, act), methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, keys=keys)])


def _posted(session: Session, answer: Callable[[dict[str, Any]], Any]) -> Any:
    """A route that takes a JSON object, and tells what went wrong in words."""

    async def route(request: Request) -> Response:
        try:
            body = await _body(request)
            return JSONResponse(await run_in_threadpool(answer, body))
        except BadRequest as error:
            return _error(400, str(error))
        except Stale:
            return _error(
                409, "the corrections were changed in another window", session.journal.seq
            )
        except ScanError as error:
            return _error(422, str(error))

    return route


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _MOST_BYTES:
            raise BadRequest(f"expected at most {_MOST_BYTES} bytes")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"expected JSON ({error})") from error
    if not isinstance(body, dict):
        raise BadRequest("expected a JSON object")
    return body


def _seq(body: dict[str, Any]) -> int:
    seq = body.get("seq")
    if not _is_int(seq):
        raise BadRequest("seq: expected the number of the last entry that the page knows")
    return int(seq)  # type: ignore[arg-type]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _error(status: int, why: str, seq: int | None = None) -> JSONResponse:
    return JSONResponse({"error": why} | ({} if seq is None else {"seq": seq}), status)


def _file(name: str) -> bytes:
    package = "scan_tf.evaluation" if name in _SHARED else __package__
    return resources.files(package).joinpath(name).read_bytes()
