"""Errors on the wire: RFC 9457 problem details with Fuseline's codes."""

from __future__ import annotations

import uuid

import msgspec
import structlog

from fuseline import errors

MEDIA_TYPE = "application/problem+json"

log = structlog.get_logger("plane")

# The first family that fits decides; order is from special to general.
_STATUS: tuple[tuple[type[errors.FuselineError], int], ...] = (
    (errors.NotFound, 404),
    (errors.MethodNotAllowed, 405),
    (errors.MediaType, 415),
    (errors.BodyTooLarge, 413),
    (errors.OperatorToken, 401),
    (errors.ReleaseConflict, 409),
    (errors.ReleaseDowngrade, 409),
    (errors.RolloutEmpty, 409),
    (errors.NonceSpent, 409),
    (errors.NonceStale, 410),
    (errors.NonceInvalid, 404),
    (errors.CertMissing, 401),
    (errors.IdentityError, 403),
    (errors.EvidenceError, 422),
    (errors.ImageError, 422),
    (errors.FormatError, 400),
)


def status_of(error: errors.FuselineError) -> int:
    """Return the HTTP status for an error; what is nobody's fault but ours is a 500."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(error: errors.FuselineError) -> bytes:
    """Return the problem document: type, title, status, then code, evidence and hint."""
    doc = (type(error).__doc__ or error.code).split("\n", maxsplit=1)[0]
    return msgspec.json.encode(
        {
            "type": f"urn:fuseline:error:{error.code}",
            "title": doc,
            "status": status_of(error),
            "detail": error.message,
            "code": error.code,
            "evidence": error.evidence,
            "hint": error.hint,
        }
    )


def defect(path: str, error: Exception) -> errors.ServerFault:
    """Log a defect of ours and return the error that is told of it."""
    reference = uuid.uuid4().hex
    log.error("defect", exc_info=error, reference=reference, path=path[:200])
    return errors.ServerFault("a defect of the plane", reference=reference)
