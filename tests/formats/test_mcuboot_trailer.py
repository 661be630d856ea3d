"""Slot trailers, against the slots that imgtool makes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuseline.errors import ImageMalformed, ImageSize
from fuseline.formats.mcuboot import (
    HardwareId,
    TrustedKey,
    VerifiedImage,
    parse_image,
    verify_image,
)
from fuseline.formats.mcuboot_trailer import (
    TRAILER_SIZE,
    Trailer,
    copy_done_write,
    image_ok_write,
    magic_write,
    max_image_size,
    read_trailer,
)

SLOT_SIZE = 4096
PAYLOAD = bytes(range(200)) * 3

Imgtool = Callable[..., bytes]
Verify = Callable[[bytes, int], VerifiedImage]


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def sign(key: ec.EllipticCurvePrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Imgtool:
    folder = tmp_path_factory.mktemp("slots")
    pem, source, target = folder / "key.pem", folder / "payload.bin", folder / "image.bin"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    source.write_bytes(PAYLOAD)

    def run(*options: str) -> bytes:
        fixed = ["-v", "1.0.0", "-s", "1", "--vid", "acme.example", "--cid", "lock-v1", "-H", "32"]
        tool = str(Path(sys.executable).parent / "imgtool")
        command = [tool, "sign", "-k", str(pem), *fixed, "--pad-header", "-S", str(SLOT_SIZE), *options]
        subprocess.run([*command, str(source), str(target)], check=True, capture_output=True, timeout=60)
        return target.read_bytes()

    return run


@pytest.fixture(scope="module")
def verify(key: ec.EllipticCurvePrivateKey) -> Verify:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hardware = HardwareId.of("acme.example", "lock-v1")
    return lambda raw, slot_size: verify_image(
        raw, keys=[TrustedKey(spki)], hardware=hardware, counter_floor=1, slot_size=slot_size
    )


def test_an_image_may_fill_the_slot_up_to_the_trailer_and_no_byte_more(sign: Imgtool, verify: Verify) -> None:
    image = sign()
    exact = len(image) + TRAILER_SIZE
    assert max_image_size(exact) == len(image)
    assert verify(image, exact).size == len(image)
    with pytest.raises(ImageSize):
        verify(image, exact - 1)


@pytest.mark.parametrize(("option", "image_ok"), [("--confirm", True), ("--test", False), ("--pad", False)])
def test_a_slot_made_by_imgtool_verifies_and_its_trailer_reads(
    sign: Imgtool, verify: Verify, option: str, *, image_ok: bool
) -> None:
    slot = sign(option)
    assert len(slot) == SLOT_SIZE
    assert read_trailer(slot) == Trailer(magic_good=True, copy_done=False, image_ok=image_ok)
    assert verify(slot, SLOT_SIZE).payload == PAYLOAD


def test_our_trailer_writes_make_the_slot_that_imgtool_makes(sign: Imgtool, verify: Verify) -> None:
    confirmed = sign("--confirm")
    slot = bytearray(confirmed[: parse_image(confirmed).size].ljust(SLOT_SIZE, b"\xff"))
    assert read_trailer(bytes(slot)) == Trailer(magic_good=False, copy_done=False, image_ok=False)
    for write in (image_ok_write(SLOT_SIZE), magic_write(SLOT_SIZE)):
        slot[write.offset : write.offset + len(write.data)] = write.data
    assert slot == confirmed
    offset, data = copy_done_write(SLOT_SIZE)
    slot[offset : offset + len(data)] = data
    assert read_trailer(bytes(slot)) == Trailer(magic_good=True, copy_done=True, image_ok=True)
    assert verify(bytes(slot), SLOT_SIZE).payload == PAYLOAD


def test_no_bit_after_the_image_in_a_slot_can_change(sign: Imgtool, verify: Verify) -> None:
    slot = sign("--confirm")
    for bit in range(parse_image(slot).size * 8, SLOT_SIZE * 8):
        changed = bytearray(slot)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImageMalformed, match="after the image"):
            verify(bytes(changed), SLOT_SIZE)
    assert verify(slot, SLOT_SIZE).payload == PAYLOAD


@pytest.mark.parametrize("align", ["16", "32"])
def test_the_trailers_of_other_alignments_are_not_read_as_ours(
    sign: Imgtool, verify: Verify, align: str
) -> None:
    slot = sign("--confirm", "--max-align", align)
    assert not read_trailer(slot).magic_good
    with pytest.raises(ImageMalformed):
        verify(slot, SLOT_SIZE)


@pytest.mark.parametrize("size", [0, TRAILER_SIZE - 1])
def test_a_slot_without_room_for_a_trailer_is_malformed(size: int) -> None:
    with pytest.raises(ImageMalformed):
        read_trailer(b"\xff" * size)


def test_a_spoilt_flag_counts_as_tried_and_never_as_confirmed() -> None:
    slot = bytearray(b"\xff" * TRAILER_SIZE)
    for byte in range(256):
        slot[copy_done_write(TRAILER_SIZE).offset] = byte
        slot[image_ok_write(TRAILER_SIZE).offset] = byte
        expected = Trailer(magic_good=False, copy_done=byte != 0xFF, image_ok=byte == 0x01)
        assert read_trailer(bytes(slot)) == expected
