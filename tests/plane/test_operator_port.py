"""The operator port: nobody without the token, nothing changed by a cookie, every error with a code."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest

from fuseline.plane.api.operator_auth import COOKIE, session_value

if TYPE_CHECKING:
    from tests.conftest import RunningPlane


def _call(
    plane: RunningPlane, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(urlsplit(plane.operator_url).netloc, timeout=10)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body or None, headers=fields)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def _code(content: bytes) -> str:
    return str(json.loads(content)["code"])


def _bearer(plane: RunningPlane) -> str:
    return f"Bearer {plane.config.operator_token}"


READS = ["/api/v1/overview", "/api/v1/devices", "/api/v1/releases", "/api/v1/events", "/api/schema"]


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", "Basic {token}", "{token}"])
def test_without_the_token_nothing_is_shown(plane: RunningPlane, path: str, header: str) -> None:
    value = header.format(token=plane.config.operator_token)
    status, _, content = _call(plane, "GET", path, Authorization=value)
    assert (status, _code(content)) == (401, "E_OPERATOR_TOKEN")
    assert plane.config.operator_token.encode() not in content


def test_the_token_opens(plane: RunningPlane) -> None:
    for path in ("/api/v1/overview", "/api/v1/devices", "/api/v1/releases"):
        assert _call(plane, "GET", path, Authorization=_bearer(plane))[0] == 200


def test_the_consoles_cookie_reads_and_changes_nothing(plane: RunningPlane) -> None:
    device = plane.soft_device()
    cookie = f"{COOKIE}={session_value(plane.config.operator_token)}"
    assert _call(plane, "GET", "/api/v1/devices", Cookie=cookie)[0] == 200
    body = json.dumps({"reason": "by a page in the operator's browser"}).encode()
    path = f"/api/v1/devices/{device.name}/revoke"
    status, _, content = _call(plane, "POST", path, body, Cookie=cookie, Content_Type="application/json")
    assert (status, _code(content)) == (401, "E_OPERATOR_TOKEN")
    assert plane.operator.device(device.name)["revoked"] is None


def test_login_exchanges_the_token_for_a_cookie_that_scripts_cannot_read(plane: RunningPlane) -> None:
    form = urlencode({"token": plane.config.operator_token}).encode()
    headers = {"Content_Type": "application/x-www-form-urlencoded"}
    status, fields, _ = _call(plane, "POST", "/console/login", form, **headers)
    cookie = fields["set-cookie"]
    assert (status, fields["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert plane.config.operator_token not in cookie
    status, fields, _ = _call(plane, "POST", "/console/login", b"token=guess", **headers)
    assert (status, fields["location"]) == (303, "/console/login?failed=1")
    assert "set-cookie" not in fields


def test_the_console_sends_a_stranger_to_the_login_page(plane: RunningPlane) -> None:
    status, fields, _ = _call(plane, "GET", "/")
    assert (status in (302, 303, 307), fields["location"]) == (True, "/console/login")
    assert _call(plane, "GET", "/console/login")[0] == 200


@pytest.mark.parametrize("path", ["/", "/console/login", "/console/static/console.js", "/api/v1/devices"])
def test_every_answer_carries_the_content_security_policy(plane: RunningPlane, path: str) -> None:
    _, fields, _ = _call(plane, "GET", path, Authorization=_bearer(plane))
    policy = fields["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy  # no other host
    assert fields["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/console/static/../pages.py", "/console/static/%2e%2e%2fpages.py", "/console/static/x.html"]
)
def test_static_files_are_those_and_no_others(plane: RunningPlane, path: str) -> None:
    assert _call(plane, "GET", path)[0] in (401, 404)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/v1/devices/nobody", b"", 404, "E_NOT_FOUND"),
        ("GET", "/nothing", b"", 404, "E_NOT_FOUND"),
        ("DELETE", "/api/v1/devices", b"", 405, "E_METHOD"),
        ("POST", "/api/v1/devices/nobody/revoke", b'{"reason":"x"}', 404, "E_NOT_FOUND"),
        ("POST", "/api/v1/devices/nobody/revoke", b"{", 400, "E_MESSAGE_MALFORMED"),
        ("POST", "/api/v1/rollouts", b'{"version":1}', 400, "E_MESSAGE_MALFORMED"),
        (
            "POST",
            "/api/v1/rollouts",
            b'{"version":"1","vendor":"v","hardware":"h","x":1}',
            400,
            "E_MESSAGE_MALFORMED",
        ),
        ("POST", "/api/v1/releases", b"x", 400, "E_MESSAGE_MALFORMED"),
        ("POST", "/api/v1/manifests", b"x", 400, "E_CBOR_MALFORMED"),
    ],
)
def test_bad_requests_get_a_code(
    plane: RunningPlane, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    got, _, content = _call(
        plane, method, path, body, Authorization=_bearer(plane), Content_Type="application/json"
    )
    assert (got, _code(content)) == (status, code)


def test_events_are_streamed_and_resumed(plane: RunningPlane) -> None:
    device = plane.soft_device()
    first = _read_events(plane, {})
    kinds = [event["kind"] for _, event in first if event["device"] == device.name]
    assert kinds == ["device.manufactured", "device.enrolled"]
    last_id = first[-1][0]
    device.enrol()
    after = _read_events(plane, {"Last-Event-ID": str(last_id)})
    assert [(event["kind"], event["device"]) for _, event in after] == [("device.enrolled", device.name)]


def _read_events(plane: RunningPlane, headers: dict[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """Read the stream until it is quiet."""
    connection = http.client.HTTPConnection(urlsplit(plane.operator_url).netloc, timeout=1.0)
    connection.request("GET", "/api/v1/events", headers=headers | {"Authorization": _bearer(plane)})
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    found: list[tuple[int, dict[str, Any]]] = []
    event_id = 0
    try:
        while True:
            line = response.readline().decode().strip()
            if line.startswith("id:"):
                event_id = int(line[3:])
            elif line.startswith("data:"):
                found.append((event_id, json.loads(line[5:])))
    except TimeoutError:
        return found
    finally:
        connection.close()
