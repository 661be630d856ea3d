"""Unlocking debug: the chip's challenge, the authority's response.

The ROM gives a challenge once and takes one response to it. The response is bound to this chip and its life
cycle, so it opens no other chip, and this one only until its next reset.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import DebugState, ResetReason, Strap
from fuseline.device.silicon.report import Outcome
from fuseline.errors import ChipFileUnreadable, DebugNoChallenge, DebugRefused
from fuseline.formats import x509profile

if TYPE_CHECKING:
    from pathlib import Path

    from fuseline.device.silicon.report import BootReport
    from fuseline.lab.chip.bench import Bench

_LABEL: Final = b"fuseline debug unlock"
CHALLENGE_SIZE: Final = 32
CHIP_ID_SIZE: Final = 32
SPKI_SIZE: Final = 91  # P-256, RFC 5480
SIGNATURE_SIZE: Final = 64


@dataclass(frozen=True, slots=True)
class DebugChallenge:
    """What the chip asks the debug authority to sign.

    Attributes:
        challenge: 32 octets from the chip's random number generator.
        chip_id: 32 octets.
        life_cycle: Number of the life cycle state.
    """

    challenge: bytes
    chip_id: bytes
    life_cycle: int

    def digest(self) -> bytes:
        """Return the SHA-256 that the authority signs."""
        return hashlib.sha256(
            _LABEL + self.challenge + self.chip_id + self.life_cycle.to_bytes(4, "little")
        ).digest()

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {
            "challenge": self.challenge.hex(),
            "chip_id": self.chip_id.hex(),
            "life_cycle": self.life_cycle,
            "digest": self.digest().hex(),
        }


@dataclass(frozen=True, slots=True)
class DebugResponse:
    """What the debug authority answers.

    Attributes:
        spki: Its SubjectPublicKeyInfo, 91 octets: P-256.
        signature: r || s over the challenge's digest, 64 octets.
    """

    spki: bytes
    signature: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {"spki": self.spki.hex(), "signature": self.signature.hex()}


def sign_response(challenge: DebugChallenge, key: ec.EllipticCurvePrivateKey) -> DebugResponse:
    """Answer a challenge with the debug authority's key."""
    signature = key.sign(challenge.digest(), ec.ECDSA(Prehashed(hashes.SHA256())))
    r, s = decode_dss_signature(signature)
    return DebugResponse(x509profile.spki(key.public_key()), r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def ask_challenge(bench: Bench) -> DebugChallenge:
    """Have the chip make a challenge; it waits for the response until it is cold-booted.

    Raises:
        DebugRefused: The chip gives none: nobody can unlock it, or its port is open.
    """
    report = bench.boot(strap=Strap.DEBUG)
    if report.outcome is not Outcome.STOPPED:
        raise DebugRefused("the chip gives no challenge", **_why(report))
    answer = bytes(bench.chip.mailbox_data[: CHALLENGE_SIZE + CHIP_ID_SIZE])
    return DebugChallenge(answer[:CHALLENGE_SIZE], answer[CHALLENGE_SIZE:], int(report.life_cycle))


def give_response(bench: Bench, response: DebugResponse) -> BootReport:
    """Give the chip a response: it erases the challenge, checks the response, opens debug and boots on.

    Raises:
        DebugRefused: It did not take the response, or no longer had the challenge.
    """
    octets = len(response.spki).to_bytes(4, "little") + response.spki + response.signature
    report = bench.boot(strap=Strap.DEBUG, reason=ResetReason.WARM, mailbox=octets)
    if report.outcome is Outcome.STOPPED:
        raise DebugNoChallenge("the chip had no open challenge; it has made a new one")
    if report.debug is not DebugState.OPEN:
        raise DebugRefused("the chip did not take the response", **_why(report))
    return report


def read_authority_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the debug authority's private key.

    Raises:
        ChipFileUnreadable: Not a P-256 key in PEM.
    """
    try:
        key = load_pem_private_key(read_file(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ChipFileUnreadable("not a PEM private key without a passphrase", file=str(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChipFileUnreadable("the debug authority's key is not P-256", file=str(path))
    return key


def read_file(path: Path) -> bytes:
    """Read a file that a person named.

    Raises:
        ChipFileUnreadable: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ChipFileUnreadable(f"cannot be read: {error.strerror}", file=str(path)) from error


class _ChallengeFile(msgspec.Struct):
    challenge: str
    chip_id: str
    life_cycle: int


class _ResponseFile(msgspec.Struct):
    spki: str
    signature: str


def read_challenge(path: Path) -> DebugChallenge:
    """Read a challenge as `fuseline chip debug --json` printed it.

    Raises:
        ChipFileUnreadable: It is something else.
    """
    try:
        document = msgspec.json.decode(read_file(path), type=_ChallengeFile)
        challenge = bytes.fromhex(document.challenge)
        chip_id = bytes.fromhex(document.chip_id)
    except (msgspec.DecodeError, ValueError) as error:
        raise ChipFileUnreadable("not a debug challenge", file=str(path)) from error
    known = 0 <= document.life_cycle <= max(LifeCycle)
    if len(challenge) != CHALLENGE_SIZE or len(chip_id) != CHIP_ID_SIZE or not known:
        raise ChipFileUnreadable("a value of the challenge is out of its range", file=str(path))
    return DebugChallenge(challenge, chip_id, document.life_cycle)


def read_response(path: Path) -> DebugResponse:
    """Read a response as `fuseline chip debug-sign` wrote it.

    Raises:
        ChipFileUnreadable: It is something else.
    """
    try:
        document = msgspec.json.decode(read_file(path), type=_ResponseFile)
        spki, signature = bytes.fromhex(document.spki), bytes.fromhex(document.signature)
    except (msgspec.DecodeError, ValueError) as error:
        raise ChipFileUnreadable("not a debug response", file=str(path)) from error
    if len(spki) != SPKI_SIZE or len(signature) != SIGNATURE_SIZE:
        raise ChipFileUnreadable("a value of the response is out of its range", file=str(path))
    return DebugResponse(spki, signature)


def _why(report: BootReport) -> dict[str, Any]:
    error = report.error.as_dict() if report.error else None
    return {"outcome": report.outcome.value, "rom_error": error}
