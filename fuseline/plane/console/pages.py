"""The console's files, served with a policy that lets nothing else in."""

from __future__ import annotations

from pathlib import Path

from litestar import Response, get
from litestar.enums import MediaType

from fuseline.errors import NotFound

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# CSP level 3: scripts, styles and connections of this origin only, nothing inline, never in a frame.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def _page(name: str) -> Response[bytes]:
    return Response((_STATIC / name).read_bytes(), media_type=MediaType.HTML)


@get("/", include_in_schema=False, sync_to_thread=False)
def index() -> Response[bytes]:
    """Serve the console."""
    return _page("index.html")


@get("/console/login", include_in_schema=False, sync_to_thread=False, opt={"public": True})
def login_page() -> Response[bytes]:
    """Serve the form that asks for the operator token."""
    return _page("login.html")


@get("/console/static/{name:str}", include_in_schema=False, sync_to_thread=False, opt={"public": True})
def static(name: str) -> Response[bytes]:
    """Serve a script or a style sheet."""
    path = _STATIC / name
    media_type = _TYPES.get(path.suffix)
    if media_type is None or path.parent != _STATIC or not path.is_file():
        raise NotFound("no such file", name=name[:80])
    return Response(path.read_bytes(), media_type=media_type)


@get("/favicon.ico", include_in_schema=False, sync_to_thread=False, opt={"public": True}, status_code=204)
def favicon() -> None:
    """Tell browsers that there is no icon, without an error in their logs."""
