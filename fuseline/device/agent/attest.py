"""Proving what runs: the device's part of challenge-response attestation."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from fuseline.device.agent.link import PlaneLink
from fuseline.device.element.interface import SecureElement
from fuseline.errors import PlaneRefused, ResultMalformed
from fuseline.formats import ear, psa, rats

_NEW_SESSION = f"{rats.NEW_SESSION}?nonceSize=32"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier said; the device shows it, the plane acts on it.

    The result is signed for relying parties. The device is not one of them and only reads it.
    """

    status: str
    release: str | None
    explanation: str


def attest(link: PlaneLink, element: SecureElement) -> Verdict:
    """Answer one challenge with the element's boot record.

    Raises:
        DeviceError: The plane is away or refuses the evidence.
        ElementError: The element refuses.
    """
    opened = link.request("POST", _NEW_SESSION)
    token = element.attest(_nonce(_session(opened.body)))
    answer = link.request(
        "POST",
        opened.headers.get("location", ""),
        body=token,
        headers={"Content-Type": psa.MEDIA_TYPE, "Accept": rats.SESSION_MEDIA_TYPE},
    )
    session = _session(answer.body)
    if session.result is None:
        raise PlaneRefused("the verifier gave no result", status=answer.status)
    return _read(session.result)


def _session(body: bytes) -> rats.Session:
    try:
        return msgspec.json.decode(body, type=rats.Session)
    except msgspec.DecodeError as error:
        raise PlaneRefused("the verifier's answer is not a session") from error


def _nonce(session: rats.Session) -> bytes:
    try:
        return base64.b64decode(session.nonce, validate=True)
    except binascii.Error as error:
        raise PlaneRefused("the verifier's nonce is not base64") from error


def _read(token: str) -> Verdict:
    try:
        result = ear.decode_unverified(token)
        notes = result.verifier_claims
        return Verdict(result.status.value, notes["release"], notes["explanation"])
    except (ResultMalformed, KeyError) as error:
        raise PlaneRefused("the attestation result cannot be read") from error
