"""Attacks on the debug port: unlocking it without its authority, or keeping it open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fuseline.device.silicon import fuse_map
from fuseline.device.silicon.crypto_block import P256_N
from fuseline.device.silicon.fuse_map import LifeCycle
from fuseline.device.silicon.memory_map import RETENTION, DebugState, ResetReason, Strap
from fuseline.device.silicon.report import BootReport, Outcome
from fuseline.lab.chip.debug_unlock import (
    CHALLENGE_SIZE,
    CHIP_ID_SIZE,
    DebugChallenge,
    DebugResponse,
    sign_response,
)
from fuseline.lab.chip_attacks.forge import ImageSpec, P256Signer, forge
from fuseline.lab.chip_attacks.model import Attempt, Effort, Verdict, escaped, judge, refused
from fuseline.lab.chip_attacks.puppet import puppet, store
from fuseline.lab.chip_attacks.rig import fuse_words, with_fuses, with_life_cycle

if TYPE_CHECKING:
    from fuseline.device.silicon.silicon import SiliconSnapshot
    from fuseline.lab.chip_attacks.rig import Rig

_RECORD_OCTETS: Final = 4 * 18
"""The ROM's record of its challenge, at the start of retention RAM (chip/rom/debug.c)."""


def debug_unlock(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Answer a chip's challenge with everything but the one right response; and try to keep the port open."""
    yield from _open_and_shut(rig)
    yield from _replays(rig)
    yield from _wrong_responses(rig)
    yield from _forged_challenges(rig, effort)
    yield from _nobody_may(rig)


def _ask(rig: Rig, snapshot: SiliconSnapshot | None = None) -> DebugChallenge:
    rig.insert(snapshot)
    return _ask_again(rig)


def _ask_again(rig: Rig, reason: ResetReason = ResetReason.COLD) -> DebugChallenge:
    report = rig.boot(_loader(rig), strap=Strap.DEBUG, reason=reason)
    answer = bytes(rig.chip.mailbox_data[: CHALLENGE_SIZE + CHIP_ID_SIZE])
    return DebugChallenge(answer[:CHALLENGE_SIZE], answer[CHALLENGE_SIZE:], int(report.life_cycle))


def _loader(rig: Rig) -> bytes:
    return forge(ImageSpec(), rig.keys.loader)


def _octets(response: DebugResponse) -> bytes:
    return len(response.spki).to_bytes(4, "little") + response.spki + response.signature


def _respond(rig: Rig, octets: bytes) -> BootReport:
    return rig.boot(b"", strap=Strap.DEBUG, reason=ResetReason.WARM, mailbox=octets)


def _judge(what: str, report: BootReport, expected: str | None = None) -> Attempt:
    """Judge a boot in which debug must stay closed."""
    if report.debug is DebugState.OPEN or report.outcome is Outcome.BOOTED:
        return escaped(what, f"{report.outcome.value}, debug {report.debug.name}")
    if report.outcome is Outcome.STOPPED:
        return refused(what, "a new challenge")
    return judge(what, report, expected)


def _stays_closed(what: str, report: BootReport) -> Attempt:
    """Judge a boot that goes on to the loader, with debug closed."""
    if report.debug is DebugState.OPEN:
        return escaped(what, "debug OPEN")
    return refused(what, "debug LOCKED")


def _opens(what: str, report: BootReport) -> Attempt:
    """Judge a response that is right, though it looks otherwise; or the control."""
    if report.debug is DebugState.OPEN and report.outcome is Outcome.BOOTED:
        return Attempt(what, Verdict.EQUAL, "opens for its authority")
    return escaped(what, f"the control failed: {report.error}")


def _open_and_shut(rig: Rig) -> Iterator[Attempt]:
    loader = _loader(rig)
    for strap, reason in (
        (Strap.NORMAL, ResetReason.WARM),
        (Strap.NORMAL, ResetReason.COLD),
        (Strap.NORMAL, ResetReason.UPDATE),
    ):
        response = sign_response(_ask(rig), rig.keys.debug.key)
        yield _opens("the authority's response, as a control", _respond(rig, _octets(response)))
        report = rig.boot(loader, strap=strap, reason=reason)
        yield _stays_closed(f"a {reason.name.lower()} reset after the unlock", report)
    closed = rig.start(loader).record
    response = sign_response(_ask(rig), rig.keys.debug.key)
    opened = _respond(rig, _octets(response)).record
    same = closed is None or opened is None or closed.idevid_public == opened.idevid_public
    what = "the product's identity while debug is open"
    yield escaped(what, "reached") if same else refused(what, "another identity")


def _replays(rig: Rig) -> Iterator[Attempt]:
    response = _octets(sign_response(_ask(rig), rig.keys.debug.key))
    _respond(rig, response)
    yield _judge("the response again", _respond(rig, response))
    yield _judge("the response to a later challenge", _respond(rig, response), "E_ROM_DEBUG_SIGNATURE")

    response = _octets(sign_response(_ask(rig), rig.keys.debug.key))
    rig.boot(b"", reason=ResetReason.WARM)
    yield _judge("after another boot", _respond(rig, response))

    response = _octets(sign_response(_ask(rig), rig.keys.debug.key))
    rig.boot(b"", strap=Strap.DEBUG, reason=ResetReason.COLD)
    yield _judge("after the supply was off", _respond(rig, response), "E_ROM_DEBUG_SIGNATURE")

    # One guess a challenge: the right response after a wrong one comes too late.
    challenge = _ask(rig)
    _respond(rig, _octets(sign_response(challenge, rig.keys.stranger.key)))
    yield _judge(
        "the right response after a wrong one",
        _respond(rig, _octets(sign_response(challenge, rig.keys.debug.key))),
    )


def _wrong_responses(rig: Rig) -> Iterator[Attempt]:
    keys = rig.keys
    foreign = _ask(rig, rig.victims.other)
    redirect: dict[str, Callable[[DebugChallenge], DebugChallenge]] = {
        "another chip": lambda asked: replace(asked, chip_id=foreign.chip_id),
        "another chip's challenge": lambda asked: replace(asked, challenge=foreign.challenge),
        "TEST": lambda asked: replace(asked, life_cycle=int(LifeCycle.TEST)),
        "DEV": lambda asked: replace(asked, life_cycle=int(LifeCycle.DEV)),
        "RMA": lambda asked: replace(asked, life_cycle=int(LifeCycle.RMA)),
    }
    for what, change in redirect.items():
        response = sign_response(change(_ask(rig)), keys.debug.key)
        yield _judge(f"a response for {what}", _respond(rig, _octets(response)), "E_ROM_DEBUG_SIGNATURE")
    for what, signer in (("a stranger's", keys.stranger), ("the loader's", keys.loader)):
        response = sign_response(_ask(rig), signer.key)
        yield _judge(f"a response of {what} key", _respond(rig, _octets(response)), "E_ROM_DEBUG_KEY")
    yield from _wrong_signatures(rig, keys.debug, keys.stranger)


def _wrong_signatures(rig: Rig, authority: P256Signer, stranger: P256Signer) -> Iterator[Attempt]:
    def respond(edit: int, other: int | None = None) -> tuple[DebugResponse, bytes, bytes]:
        response = sign_response(_ask(rig), authority.key)
        r, s = response.signature[:32], response.signature[32:]
        return (
            response,
            (edit.to_bytes(32, "big") if edit >= 0 else r),
            (other.to_bytes(32, "big") if other is not None else s),
        )

    for what, r_value, s_value in (
        ("r = 0", 0, None), ("s = 0", -1, 0), ("r = n", P256_N, None), ("s = n", -1, P256_N),
        ("r = s = 0", 0, 0), ("r and s of ones", 2**256 - 1, 2**256 - 1), ("r = s = 1", 1, 1),
    ):  # fmt: skip
        response, r, s = respond(r_value, s_value)
        yield _judge(
            f"a response with {what}",
            _respond(rig, _octets(replace(response, signature=r + s))),
            "E_ROM_DEBUG_SIGNATURE",
        )
    response, r, s = respond(-1)
    mirrored = (P256_N - int.from_bytes(s, "big")).to_bytes(32, "big")
    yield _opens(
        "a response with (r, n - s)", _respond(rig, _octets(replace(response, signature=r + mirrored)))
    )
    for what, size, spki in (
        ("a key of 90 octets", 90, authority.spki),
        ("a key of 0 octets", 0, authority.spki),
        ("a key of 2^32 - 1 octets", 0xFFFF_FFFF, authority.spki),
        ("its authority's name on another key", 91, authority.spki[:-64] + stranger.spki[-64:]),
    ):
        response = sign_response(_ask(rig), stranger.key if spki != authority.spki else authority.key)
        octets = size.to_bytes(4, "little") + spki + response.signature
        yield _judge(f"a response with {what}", _respond(rig, octets), "E_ROM_DEBUG_KEY")


def _forged_challenges(rig: Rig, effort: Effort) -> Iterator[Attempt]:
    """Write challenges that were answered before, or are one's own, to the RAM that keeps them."""
    challenge = _ask(rig)
    response = _octets(sign_response(challenge, rig.keys.debug.key))
    waiting = rig.silicon.snapshot()
    record = bytes(rig.silicon.psram.view(RETENTION, _RECORD_OCTETS))
    for bit in effort.pick(range(8 * _RECORD_OCTETS), 11):
        rig.insert(waiting).retention[bit // 8] ^= 1 << bit % 8
        yield _judge(f"bit {bit} of the challenge's record", _respond(rig, response))
    rig.insert(rig.victims.other)
    rig.silicon.reset()
    rig.silicon.retention[: len(record)] = record
    yield _judge("another chip's record", _respond(rig, response), "E_ROM_DEBUG_CHALLENGE")

    # Code in the loader's place keeps an answered challenge, and puts it back with a fresh boot count.
    for what, patched in (("kept", record), ("with a later boot count", _with_boot_count(record, 2))):
        rig.insert(waiting)
        words = [int.from_bytes(patched[at : at + 4], "little") for at in range(0, len(patched), 4)]
        rows = [store("write the record", RETENTION + 4 * at, word) for at, word in enumerate(words)]
        rig.boot(puppet(rows, rig.keys.loader), reason=ResetReason.WARM)
        yield _judge(f"a record {what} by later code", _respond(rig, response), "E_ROM_DEBUG_CHALLENGE")


def _with_boot_count(record: bytes, later: int) -> bytes:
    count = int.from_bytes(record[4:8], "little") + later
    return record[:4] + count.to_bytes(4, "little") + record[8:]


def _nobody_may(rig: Rig) -> Iterator[Attempt]:
    words = fuse_words(rig.victims.product)
    authority = slice(fuse_map.DEBUG_AUTHORITY, fuse_map.DEBUG_AUTHORITY + fuse_map.DEBUG_AUTHORITY_WORDS + 1)
    words[authority] = [0] * (fuse_map.DEBUG_AUTHORITY_WORDS + 1)
    for what, chip, code in (
        ("a chip without authority", with_fuses(rig.victims.product, words), "E_ROM_DEBUG_AUTHORITY"),
        (
            "a returned chip, open anyway",
            with_life_cycle(rig.victims.product, LifeCycle.RMA),
            "E_ROM_DEBUG_AUTHORITY",
        ),
        ("a scrapped chip", with_life_cycle(rig.victims.product, LifeCycle.SCRAP), "E_ROM_LIFE_CYCLE_SCRAP"),
    ):
        rig.insert(chip)
        yield judge(f"ask {what} for a challenge", rig.boot(_loader(rig), strap=Strap.DEBUG), code)
