"""The command port: how machine code asks the chip's blocks for something.

Write the arguments and the command into the mailbox, set its status to `Status.BUSY`, write 1 to the
doorbell, read the status until it is not busy. In the first engine the block has answered before the
store to the doorbell retires; in the second a Python process polls the same words. Addresses in
arguments are the processor's; a block reaches main RAM, the mailbox's data buffer and, to read, flash
and the fuse shadow, and nothing else.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class Status(IntEnum):
    """What became of a command. Coded so that no few flipped bits turn one into another."""

    BUSY = 0
    OK = 0x31CF30D3
    REFUSED = 0xDC42A74B
    """The block may not do this now: locked, wrong life cycle, an empty key slot."""
    BAD_ARGUMENT = 0xB3C296A3
    """Out of range, misaligned, or an address that blocks cannot reach."""
    FAILED = 0x56F4664A
    """It did not work: a flash word not erased, a fuse that did not take, a dead noise source."""


class Command(IntEnum):
    """Commands with their arguments `a0`, `a1`, ... and results `r0`, ... (32-bit words).

    Addresses are octet addresses, lengths are in octets, key slots are `KeySlot`.
    """

    STOP = 0x01
    """a0: exit status. Ends the run; the supply stays on."""
    FAIL = 0x02
    """a0: error word. Keeps it for whoever asks, empties the key slots, locks everything, ends the run."""
    RESET = 0x03
    """a0: `ResetReason.WARM` or `UPDATE`. Ends the run; the next one starts with that reason."""
    STAGE = 0x04
    """a0: `Stage`. Notes that the machine code came this far."""
    EXEC_ENABLE = 0x05
    """a0: must be `EXEC_ENABLE_WORD`. Makes main RAM executable until the next reset."""
    LOCK = 0x06
    """a0: `Lock` bits, set until the next reset."""

    OTP_BLOW = 0x10
    """a0: word index, a1: bits to blow. r0: what the word reads as afterwards. FAILED: a bit did not take."""
    OTP_READ = 0x11
    """a0: word index. r0: the word by normal sense. r1: bits that a strict (margin) sense doubts."""

    PUF_ENROL = 0x18
    """a0: where to write helper data (`HELPER_SIZE` octets). Fills `KeySlot.UDS`. Only in life cycle TEST."""
    PUF_RECONSTRUCT = 0x19
    """a0: where helper data stands. Fills `KeySlot.UDS`: with the secret, or with noise where the readout is
    too far from it or the helper is no helper. The answer is the same; only a check value
    tells (ADR 0012)."""
    PUF_CLEAR = 0x1A
    """Erases the rows and locks the PUF until the next cold or warm reset."""

    KEY_DERIVE = 0x20
    """a0: source, a1: destination, a2, a3: label address and length, a4, a5: context address and length.
    Destination = HKDF-Expand-SHA256(source, label || 0x00 || context, 32) (RFC 5869 2.3). From `KeySlot.UDS`
    the block itself puts life cycle and debug state before the context, so that no machine code, and nobody
    at an open debug port, derives what another state of this chip derives."""
    KEY_PAIR = 0x21
    """a0: source, a1: destination, a2, a3: label, a4: where to write the public key (X || Y, 64 octets).
    Destination = a P-256 key from 48 octets of HKDF-Expand (FIPS 186-5 A.2.1)."""
    KEY_SIGN = 0x22
    """a0: slot with a P-256 key, a1: digest address (32 octets), a2: where to write r || s (64 octets)."""
    KEY_CLEAR = 0x23
    """a0: slot."""
    KEY_LOCK = 0x24
    """a0: slot. Unusable until the next reset."""
    KEY_CHECK_VALUE = 0x25
    """a0: slot, a1: where to write 16 octets that tell whether it is the same secret."""
    KEY_HMAC = 0x26
    """a0: slot, a1, a2: message, a3: where to write HMAC-SHA256 (32 octets)."""
    KEY_AES_CTR = 0x27
    """a0: slot, a1: initial counter block (16 octets), a2: source, a3: length, a4: destination. AES-256."""

    SHA256 = 0x30
    """a0, a1: message, a2: where to write 32 octets."""
    SHA512 = 0x31
    """a0, a1: message, a2: where to write 64 octets."""
    HKDF = 0x32
    """a0, a1: input key, a2, a3: salt, a4, a5: info, a6, a7: where to write how many octets. HKDF-SHA256."""
    AES_CTR = 0x33
    """a0, a1: key (16 or 32 octets), a2: initial counter block, a3: source, a4: length, a5: destination."""
    ECDSA_RECOVER = 0x34
    """a0: public key (X || Y, 64 octets), a1: digest (32), a2: r || s (64), a3: where to write r' (32).
    r' = x(s^-1 e G + s^-1 r Q) mod n (FIPS 186-5 6.4.2): the signature holds exactly if r' = r, which the
    asking machine code compares. FAILED and r' = 0: no such point, or r or s out of range."""
    ED25519_RECOVER = 0x35
    """a0: public key (32), a1, a2: message, a3: R || S (64), a4: where to write R' (32).
    R' = S B - k A (RFC 8032 5.1.7, without cofactor). FAILED and R' = 0: A is no point, or S >= L."""
    TRNG_READ = 0x36
    """a0, a1: where to write how many octets. FAILED: a health test (SP 800-90B 4.4) has failed."""

    FLASH_ERASE = 0x40
    """a0: offset of a block. r0: how often this block has been erased."""
    FLASH_PROGRAM = 0x41
    """a0: offset, a1, a2: source; whole words. FAILED: r0 is the offset of the first word not erased."""
    FLASH_WEAR = 0x42
    """a0: offset of a block. r0: how often it has been erased."""

    DEBUG_OPEN = 0x50
    """Opens the debug port until the next reset. Only before `Lock.DEBUG`."""


EXEC_ENABLE_WORD: Final = 0x14A761F9


class Stage(IntEnum):
    """How far machine code came, in order."""

    ROM = 0x36508DCF
    FUSES = 0x12935AF5
    PUF = 0x4257C5AB
    DICE = 0x85B99B34
    VERIFIED = 0xBCE1B864
    LOADER = 0xFCDA4189
    """The ROM's last word before it jumps."""
    LOADER_RUNS = 0xC6221ED7
    PROVISIONED = 0xE31C1B17


class Lock(IntFlag):
    """What stays locked until the next reset."""

    FUSES_FACTORY = 0x01
    """No fuse but revocations and counters can be blown."""
    FUSES_REVOCATION = 0x02
    FUSES_COUNTERS = 0x04
    FLASH_IDENTITY = 0x08
    """Helper data and IDevID certificate in flash."""
    FLASH_LOADER = 0x10
    """Both copies of the loader in flash."""
    DEBUG = 0x20
    KEY_ROOTS = 0x40
    """`KeySlot.UDS` and both slots of the IDevID can be neither used nor filled."""
    EXEC = 0x80
    """`EXEC_ENABLE` is refused."""
    PUF = 0x100


class KeySlot(IntEnum):
    """Key slots: machine code uses them by number and never sees what is in them."""

    UDS = 0
    IDEVID_CDI = 1
    IDEVID_KEY = 2
    LOADER_CDI = 3
    LOADER_KEY = 4
    FIRMWARE_CDI = 5
    FIRMWARE_KEY = 6
    GENERAL_0 = 8
    GENERAL_1 = 9
    GENERAL_2 = 10
    GENERAL_3 = 11
