"""The challenge-response interaction of the device with the verifier, in Veraison's shape.

``POST /challenge-response/v1/newSession`` answers 201 with a `Location` and a session that carries the
nonce; ``POST session/{id}`` takes the evidence and answers the completed session with its result.
"""

from __future__ import annotations

import msgspec

SESSION_MEDIA_TYPE = "application/vnd.veraison.challenge-response-session+json"
NEW_SESSION = "/challenge-response/v1/newSession"
SESSION = "/challenge-response/v1/session/"


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """One challenge-response session.

    Attributes:
        nonce: The challenge, standard base64.
        expiry: RFC 3339 time after which the nonce is stale.
        accept: Media types of evidence that are taken.
        status: ``waiting`` or ``complete``.
        result: The signed attestation result (EAR as JWT), once complete.
    """

    nonce: str
    expiry: str
    accept: list[str]
    status: str = "waiting"
    result: str | None = None
