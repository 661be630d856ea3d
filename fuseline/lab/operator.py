"""The operator API, as the command line and the lab use it."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from fuseline.errors import PlaneRefused, PlaneUnreachable, PlaneUntrusted
from fuseline.plane.config import PlaneConfig
from fuseline.plane.serve import Running

_TIMEOUT = 30.0  # seconds


class OperatorClient:
    """Calls one plane's operator port."""

    def __init__(self, url: str, token: str) -> None:
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}"}

    @classmethod
    def for_plane(cls, config: PlaneConfig) -> OperatorClient:
        """Return a client for the plane that runs on a folder.

        Raises:
            StateMissing: None does.
        """
        return cls(Running.of(config).operator_url, config.operator_token)

    def _call(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> Any:
        if self._url.scheme == "http":
            connection = http.client.HTTPConnection(self._url.netloc, timeout=_TIMEOUT)
        elif self._url.scheme == "https":
            connection = http.client.HTTPSConnection(self._url.netloc, timeout=_TIMEOUT)
        else:
            raise PlaneUntrusted("not an operator URL", url=self._url.geturl())
        fields = self._headers | {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body=body or None, headers=fields)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise PlaneUnreachable(f"{type(error).__name__}: {error}", url=self._url.geturl()) from error
        finally:
            connection.close()
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise PlaneRefused("the plane's answer is not JSON", status=response.status) from error
        if response.status >= 400:
            raise PlaneRefused(
                f"the plane refused: {answer.get('detail')}",
                status=response.status,
                plane_code=answer.get("code"),
                plane_evidence=answer.get("evidence"),
                plane_hint=answer.get("hint"),
            )
        return answer

    def devices(self) -> list[dict[str, Any]]:
        """Return all devices."""
        return list(self._call("GET", "/api/v1/devices")["devices"])

    def device(self, name: str) -> dict[str, Any]:
        """Return one device."""
        return dict(self._call("GET", f"/api/v1/devices/{quote(name, safe='')}"))

    def releases(self) -> list[dict[str, Any]]:
        """Return all releases."""
        return list(self._call("GET", "/api/v1/releases")["releases"])

    def import_manifest(self, body: bytes, signature: bytes) -> int:
        """Import a manufacturing manifest; returns how many devices are new."""
        answer = self._call(
            "POST",
            "/api/v1/manifests",
            body=body,
            Content_Type="application/x-ndjson",
            Fuseline_Manifest_Signature=base64.b64encode(signature).decode(),
        )
        return int(answer["registered"])

    def publish(self, image: bytes, *, vendor: str, hardware: str) -> dict[str, Any]:
        """Publish a signed image."""
        query = urlencode({"vendor": vendor, "hardware": hardware})
        return dict(
            self._call(
                "POST", f"/api/v1/releases?{query}", body=image, Content_Type="application/octet-stream"
            )
        )

    def roll_out(self, version: str, *, vendor: str, hardware: str) -> dict[str, Any]:
        """Roll a release out to all devices of its hardware."""
        body = json.dumps({"version": version, "vendor": vendor, "hardware": hardware}).encode()
        return dict(self._call("POST", "/api/v1/rollouts", body=body, Content_Type="application/json"))

    def revoke(self, name: str, reason: str) -> None:
        """Revoke a device."""
        body = json.dumps({"reason": reason}).encode()
        path = f"/api/v1/devices/{quote(name, safe='')}/revoke"
        self._call("POST", path, body=body, Content_Type="application/json")
