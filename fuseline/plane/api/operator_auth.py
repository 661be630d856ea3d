"""The operator port's door: a bearer token for programs, a cookie made from it for the console.

The cookie only reads. What changes anything takes the token itself, so that no page in the operator's
browser can ride on it.
"""

from __future__ import annotations

import hmac
from typing import Final

from litestar import Request, Response, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.handlers import BaseRouteHandler
from litestar.response import Redirect
from litestar.types import Guard

from fuseline.errors import OperatorToken

COOKIE = "fuseline_console"
_READING = ("GET", "HEAD")
_SEE_OTHER: Final = 303  # RFC 9110 15.4.4: the answer to a form is another page


def session_value(token: str) -> str:
    """Return the cookie that stands for a token; the token cannot be had from it."""
    return hmac.digest(token.encode(), b"fuseline console session 1", "sha256").hex()


def guard(token: str) -> Guard:
    """Return the guard of all routes that are not marked public."""
    expected_cookie = session_value(token)

    def check(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        if handler.opt.get("public"):
            return
        scheme, _, presented = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(presented.encode(), token.encode()):
            return
        cookie = connection.cookies.get(COOKIE, "")
        if connection.scope.get("method") in _READING and hmac.compare_digest(cookie, expected_cookie):
            return
        raise OperatorToken("the operator token is missing or wrong")

    return check


@post("/console/login", include_in_schema=False, opt={"public": True})
async def login(request: Request) -> Response[None]:  # type: ignore[type-arg]
    """Exchange the token for the console's cookie."""
    form = await request.form()
    token: str = request.app.state.operator_token
    if not hmac.compare_digest(str(form.get("token", "")).strip().encode(), token.encode()):
        return Redirect("/console/login?failed=1", status_code=_SEE_OTHER)
    cookie = Cookie(
        key=COOKIE,
        value=session_value(token),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
        max_age=86_400,
    )
    return Redirect("/", status_code=_SEE_OTHER, cookies=[cookie])


@post("/console/logout", include_in_schema=False, opt={"public": True}, sync_to_thread=False)
def logout() -> Response[None]:
    """Forget the console's cookie."""
    gone = Cookie(key=COOKIE, value="", httponly=True, samesite="strict", path="/", max_age=0)
    return Redirect("/console/login", status_code=_SEE_OTHER, cookies=[gone])
