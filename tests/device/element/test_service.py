"""The element as a real process: who may talk to it, who may read it, and when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuseline.device.element import virtual, wire
from fuseline.device.element.client import ElementClient, ElementKey, ElementPower
from fuseline.device.element.interface import KeySlot
from fuseline.errors import (
    ElementError,
    ElementPeer,
    ElementPhase,
    ElementRequest,
    ElementUnavailable,
    FuselineError,
)
from fuseline.formats import cbor, x509profile
from fuseline.formats.psa import SoftwareComponent

COMPONENT = SoftwareComponent("FW", b"m" * 32, b"s" * 32, "1.0.0")
DIGEST = b"d" * 32
NAME = "dev-1.acme.example"

# The first process of some other device: powers an element, says where it is, and lives until told.
OTHER_DEVICE = """
import sys
from pathlib import Path
from fuseline.device.element.client import ElementPower
power = ElementPower(Path(sys.argv[1]))
element = power.on()
print(power.pid, power.socket_path, power.relay_path, element.counter(), flush=True)
sys.stdin.read()
power.dispose()
"""


@pytest.fixture
def power(tmp_path: Path) -> Iterator[ElementPower]:
    virtual.provision(tmp_path / "element", b"i" * 32)
    power = ElementPower(tmp_path / "element", dial=("127.0.0.1:9",))
    yield power
    power.dispose()


@contextlib.contextmanager
def other_device(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path, Path]]:
    """Run another device in a session of its own; gives it, its element's pid and both sockets."""
    virtual.provision(folder, b"i" * 32)
    device = subprocess.Popen(
        [sys.executable, "-c", OTHER_DEVICE, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert device.stdout is not None
    try:
        pid, requests, relay, counter = device.stdout.readline().split()
        assert counter == "0", "its own device is served"
        yield device, int(pid), Path(requests), Path(relay)
    finally:
        with contextlib.suppress(ProcessLookupError):
            device.communicate(timeout=10)


def ended(pid: int, seconds: float = 5.0) -> bool:
    """Say whether a process is gone, or a zombie that nobody waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def unreachable(path: Path, seconds: float = 5.0) -> bool:
    """Say whether a socket stops answering: the last thread of a dying process closes it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            ElementClient(path).close()
        except FuselineError:
            return True
        time.sleep(0.02)
    return False


def ask_raw(path: Path, packet: bytes, *, after: float = 0.0) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        time.sleep(after)
        connection.send(packet)
        return cbor.decode(connection.recv(wire.MAX_PACKET))


def ask_relay(path: Path, **request: object) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(wire.frame(cbor.encode(request)))
        return wire.read_frame(connection)


# --- a whole power cycle ---------------------------------------------------------------------------


def test_a_power_cycle_forgets_the_record_and_keeps_keys_and_counter(power: ElementPower) -> None:
    first = power.on()
    keys = [first.public_key(slot) for slot in KeySlot] + [first.attestation_key()]
    first.record(COMPONENT, 3)
    first.close_boot()
    assert first.advance_counter() == 3
    assert first.attest(b"n" * 32)
    first.close()
    power.off()

    second = power.on()
    assert [second.public_key(slot) for slot in KeySlot] + [second.attestation_key()] == keys
    assert second.counter() == 3
    with pytest.raises(ElementPhase):
        second.attest(b"n" * 32)
    second.close()


def test_its_sockets_are_its_owner_s_alone(power: ElementPower) -> None:
    power.on().close()
    assert power.socket_path.stat().st_mode & 0o777 == 0o600
    assert power.relay_path.stat().st_mode & 0o777 == 0o600
    assert power.socket_path.parent.stat().st_mode & 0o777 == 0o700


def test_an_element_that_cannot_power_on_says_why(tmp_path: Path) -> None:
    power = ElementPower(tmp_path / "nothing")
    with pytest.raises(ElementUnavailable) as caught:
        power.on()
    assert "E_STATE_MISSING" in caught.value.evidence["reason"]
    power.dispose()
    assert not power.socket_path.parent.exists()


def test_without_power_there_is_no_answer(power: ElementPower) -> None:
    element = power.on()
    power.off()
    with pytest.raises(ElementUnavailable):
        element.counter()
    with pytest.raises(ElementUnavailable):
        ElementClient(power.socket_path)
    element.close()


# --- the key as `cryptography` sees it ---------------------------------------------------------------


def test_a_request_signed_in_the_element_verifies(power: ElementPower) -> None:
    element = power.on()
    key = ElementKey(element, KeySlot.LDEVID)
    request = x509.load_der_x509_csr(x509profile.build_request(NAME, key).public_bytes(Encoding.DER))
    assert request.is_signature_valid
    assert x509profile.verify_request(request, name=NAME).key == key.public_key()
    signature = key.sign(b"data", ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    element.close()


def test_the_private_half_is_not_to_be_had(power: ElementPower) -> None:
    element = power.on()
    key = ElementKey(element, KeySlot.IDEVID)
    with pytest.raises(TypeError, match="never leaves"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError, match="never leaves"):
        key.private_numbers()
    with pytest.raises(TypeError):
        key.exchange(ec.ECDH(), key.public_key())
    with pytest.raises(TypeError):
        key.sign(b"data", ec.ECDSA(hashes.SHA384()))
    element.close()


# --- hostile packets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff",
        b"\x00",
        b"\x80",
        cbor.encode({}),
        cbor.encode({"op": 1}),
        cbor.encode({"op": "sign", 1: 2}),
        cbor.encode({"op": "sign"}),
        cbor.encode({"op": "private_key_for_relay", "slot": "idevid"}),
        cbor.encode({"op": "__class__"}),
        cbor.encode({"op": "sign", "slot": "attest", "digest": DIGEST}),
        cbor.encode({"op": "sign", "slot": "idevid", "digest": b"short"}),
        cbor.encode({"op": "record", "component": {}, "security_counter": 1}),
        cbor.encode({"op": "counter", "self": 1}),
        cbor.encode({"op": "x" * 60_000}),
        b"\xa1\x62op\x7b" + b"\xff" * 8,
        b"\x81" * 60_000,
        bytes.fromhex("a2626f70646174746573626f7063782a"),
    ],
)
def test_a_malformed_packet_gets_a_coded_answer_and_the_element_goes_on(
    power: ElementPower, packet: bytes
) -> None:
    element = power.on()
    answer = ask_raw(power.socket_path, packet)
    assert isinstance(answer, dict)
    assert answer["error"] in {"E_ELEMENT_REQUEST", "E_ELEMENT_PHASE"}
    assert element.counter() == 0
    element.close()


def test_many_hostile_packets_on_one_connection(power: ElementPower) -> None:
    element = power.on()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(10)
        connection.connect(str(power.socket_path))
        for packet in (b"\xff", os.urandom(60_000), b"\x9f", os.urandom(3)):
            connection.send(packet)
            with pytest.raises(ElementError):
                wire.decode_answer(connection.recv(wire.MAX_PACKET))
        connection.send(wire.encode_request("counter"))
        assert wire.decode_answer(connection.recv(wire.MAX_PACKET)) == 0
    element.close()


RELAY = {
    "op": "relay",
    "slot": "ldevid",
    "host": "127.0.0.1",
    "port": 9,
    "server_name": "plane.example",
    "chain": b"",
    "trust": b"",
}


@pytest.mark.parametrize(
    "change",
    [
        {"host": "127.0.0.2"},
        {"port": 10},
        {"port": float("inf")},
        {"port": "x"},
        {"slot": "attest"},
        {"slot": []},
        {"chain": 2**40},  # would be a terabyte of locked memory
        {"trust": 2**40},
        {"chain": [1, 2]},
        {"chain": "text"},
        {"op": "sign"},
    ],
)
def test_a_relay_request_off_the_mark_is_refused(power: ElementPower, change: dict[str, object]) -> None:
    element = power.on()
    # A stream that just ends is an ElementRequest too; this one is answered.
    with pytest.raises(ElementRequest, match=r"relay|byte strings"):
        wire.decode_answer(ask_relay(power.relay_path, **(RELAY | change)))
    assert element.counter() == 0
    element.close()


# --- who may ask -----------------------------------------------------------------------------------


def test_a_process_of_another_device_is_refused(tmp_path: Path) -> None:
    with other_device(tmp_path / "victim") as (_, _, requests, relay):
        for operation in ("counter", "attestation_key", "close_boot"):
            with pytest.raises(ElementPeer):
                wire.decode_answer(cbor.encode(ask_raw(requests, wire.encode_request(operation), after=0.1)))
        stranger = ElementClient(requests)
        with pytest.raises(ElementPeer):
            stranger.sign(KeySlot.IDEVID, DIGEST)
        stranger.close()
        with pytest.raises(ElementPeer):
            wire.decode_answer(ask_relay(relay, **RELAY))


def test_a_child_of_the_device_is_served_and_an_orphan_is_not(power: ElementPower) -> None:
    element = power.on()
    probe = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from fuseline.device.element.client import ElementClient\n"
        "from fuseline.errors import ElementError\n"
        "if sys.argv[2] == 'orphan':\n"
        "    first = os.getpid()\n"
        "    if os.fork():\n"
        "        os._exit(0)\n"
        "    while os.getppid() == first:\n"
        "        time.sleep(0.01)\n"
        "try:\n"
        "    print(ElementClient(Path(sys.argv[1])).counter())\n"
        "except ElementError as error:\n"
        "    print(error.code)\n"
    )
    answers = []
    for kind in ("child", "orphan"):
        done = subprocess.run(
            [sys.executable, "-c", probe, str(power.socket_path), kind],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        answers.append(done.stdout.strip())
    assert answers == ["0", "E_ELEMENT_PEER"]
    assert element.counter() == 0
    element.close()


# --- life and death --------------------------------------------------------------------------------


def test_the_element_dies_with_its_killed_device(tmp_path: Path) -> None:
    with other_device(tmp_path / "element") as (device, pid, requests, _):
        device.kill()
        assert ended(pid)
        assert unreachable(requests)


def test_an_element_whose_device_is_gone_before_it_starts_ends_at_once(tmp_path: Path) -> None:
    virtual.provision(tmp_path / "element", b"i" * 32)
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    command = [sys.executable, "-m", "fuseline.device.element.service", "--folder", str(tmp_path / "element")]
    command += ["--runtime", str(tmp_path), "--device-pid", str(gone.pid)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / wire.ELEMENT_SOCKET).exists()


# --- who may look inside ---------------------------------------------------------------------------

# A process of the same user without any capability: what a compromised application is.
UNPRIVILEGED = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--no-new-privs"]
PROBE = """
import sys
for name in ("mem", "environ", "maps"):
    try:
        with open(f"/proc/{sys.argv[1]}/{name}", "rb") as file:
            print("open" if name == "mem" else f"read {len(file.read()) > 0}")
    except PermissionError:
        print("refused")
"""
CONTROL = "import sys; print('ready', flush=True); sys.stdin.read()"


def can_drop_capabilities() -> bool:
    try:
        return subprocess.run([*UNPRIVILEGED, "/bin/true"], check=False, timeout=10).returncode == 0
    except FileNotFoundError:
        return False


def probe(pid: int) -> list[str]:
    command = [*UNPRIVILEGED, sys.executable, "-c", PROBE, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.split("\n")[:-1]


@pytest.mark.skipif(not can_drop_capabilities(), reason="setpriv cannot drop capabilities here")
def test_a_neighbour_cannot_read_the_element_s_memory(tmp_path: Path) -> None:
    virtual.provision(tmp_path / "element", b"i" * 32)
    control = [*UNPRIVILEGED, sys.executable, "-c", CONTROL]
    element = [*UNPRIVILEGED, sys.executable, "-m", "fuseline.device.element.service"]
    element += ["--folder", str(tmp_path / "element"), "--runtime", str(tmp_path)]
    element += ["--device-pid", str(os.getpid())]
    found = []
    for command in (control, element):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            found.append(probe(process.pid))
        finally:
            process.kill()
            process.communicate()
    # The control shows that it is the element's own doing.
    assert found == [["open", "read True", "read True"], ["refused", "refused", "refused"]]
