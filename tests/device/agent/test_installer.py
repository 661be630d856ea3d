"""Downloads over real HTTP that break in every way, and installs that must not happen."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fuseline.device.agent.config import DeviceConfig, DeviceSettings
from fuseline.device.agent.link import Answer, PlaneLink
from fuseline.device.agent.update import Installer, PendingUpdate, Task, UpdateClient
from fuseline.device.firmware import loader
from fuseline.device.firmware.slots import SlotStore
from fuseline.errors import (
    DownloadDigest,
    DownloadTruncated,
    FuselineError,
    ImageDigest,
    ImageHardware,
    ImageKeyUnknown,
    ImageMalformed,
    ImageRollback,
    ImageSize,
    ImageVersion,
    MessageMalformed,
    PlaneRefused,
)
from fuseline.formats import ddi
from fuseline.formats.mcuboot import TrustedKey
from fuseline.lab.releases import ReleaseSpec, build_payload, sign_release

SLOT_SIZE = 64 * 1024
VENDOR, HARDWARE = "acme.example", "lock-v1"
CONTENT = bytes(range(256)) * 200


@dataclass
class Behaviour:
    """What the server does with one artifact, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    asked: list[str] = field(default_factory=list)


class ArtifactServer(ThreadingHTTPServer):
    """Serves one artifact, with faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ArtifactHandler)
        self.behaviour = Behaviour()


class ArtifactHandler(BaseHTTPRequestHandler):
    """Answers GET with RFC 9110 14.2 ranges."""

    def do_GET(self) -> None:
        assert isinstance(self.server, ArtifactServer)
        behaviour = self.server.behaviour
        wanted = self.headers.get("Range", "")
        behaviour.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and behaviour.ranges else 0
        body = behaviour.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: behaviour.cut_after])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Say nothing."""


class PlainLink(PlaneLink):
    """The plane's link without TLS, for a server that stands in the same test."""

    def __init__(self, port: int) -> None:
        self._connection = None
        self._port = port

    def _open(self) -> http.client.HTTPConnection:
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        return self._connection


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    server = ArtifactServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Author:
    """A release key, and what it signs."""

    pem: Path
    trusted: TrustedKey

    @classmethod
    def make(cls, folder: Path) -> Author:
        key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir()
        pem = folder / "key.pem"
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(pem, TrustedKey(spki))

    def sign(self, version: str, counter: int, *, hardware: str = HARDWARE, filler: int = 0) -> bytes:
        payload = build_payload(version) + b"\xa5" * filler
        # imgtool would refuse an image that does not fit: an attacker tells it of a larger slot.
        spec = ReleaseSpec(version, counter, VENDOR, hardware, 2 * SLOT_SIZE)
        return sign_release(payload, spec, self.pem)


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    return Author.make(tmp_path_factory.mktemp("author") / "release")


@pytest.fixture(scope="module")
def factory_image(author: Author) -> bytes:
    return author.sign("1.0.0", 5)


@dataclass
class Bench:
    """A device that runs its factory image in slot 0, and an installer on it."""

    config: DeviceConfig
    store: SlotStore
    installer: Installer

    def slots(self) -> list[bytes]:
        return [self.store.read(index) for index in range(2)]

    def parts(self) -> list[Path]:
        return sorted((self.config.folder / "agent").glob("*.part"))

    def boot(self, floor: int) -> loader.BootDecision:
        return loader.boot(
            self.store,
            keys=self.config.release_keys,
            hardware=self.config.hardware_id,
            counter_floor=floor,
        )

    def running(self, floor: int) -> str:
        return str(self.boot(floor).image.version)


@pytest.fixture
def bench(tmp_path: Path, author: Author, factory_image: bytes) -> Bench:
    settings = DeviceSettings(
        name="dev-1.acme.example",
        vendor=VENDOR,
        hardware=HARDWARE,
        tenant="acme",
        plane_name="plane.example",
        slot_size=SLOT_SIZE,
    )
    config = DeviceConfig(tmp_path, settings, (author.trusted,))
    store = SlotStore.create(tmp_path / "slots", SLOT_SIZE)
    with store.begin_write(0) as writer:
        writer.write(factory_image)
        writer.finish("permanent")
    return Bench(config, store, Installer(config, store))


def ignore(done: int, size: int) -> None:
    """Take no interest in the progress."""


def task(
    content: bytes = CONTENT, *, size: int | None = None, sha256: str | None = None, url: str = "/a/image.bin"
) -> Task:
    digest = sha256 if sha256 is not None else hashlib.sha256(content).hexdigest()
    artifact = ddi.Artifact(
        filename="image.bin",
        hashes=ddi.Hashes("", "", digest),
        size=len(content) if size is None else size,
        links=ddi.ArtifactLinks(ddi.Href(url), ddi.Href(url)),
    )
    return Task("7", "2.0.0", artifact)


def fetch(bench: Bench, server: ArtifactServer, wanted: Task) -> Path:
    return bench.installer.download(PlainLink(server.server_port), wanted, ignore)


def refused_before_asking(
    bench: Bench, server: ArtifactServer, wanted: Task, error: type[FuselineError]
) -> None:
    with pytest.raises(error):
        fetch(bench, server, wanted)
    assert server.behaviour.asked == []
    assert bench.parts() == []


# --- download --------------------------------------------------------------------------------------


def test_an_artifact_is_fetched_whole(bench: Bench, server: ArtifactServer) -> None:
    seen: list[tuple[int, int]] = []
    path = bench.installer.download(
        PlainLink(server.server_port), task(), lambda done, size: seen.append((done, size))
    )
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert server.behaviour.asked == [""]
    assert fetch(bench, server, task()) == path, "what is there already is not fetched again"
    assert server.behaviour.asked == [""]


def test_a_broken_download_goes_on_from_the_byte_where_it_stopped(
    bench: Bench, server: ArtifactServer
) -> None:
    for stop in (1000, 500):
        server.behaviour.cut_after = stop
        with pytest.raises(DownloadTruncated):
            fetch(bench, server, task())
    server.behaviour.cut_after = None
    again = Installer(bench.config, bench.store)  # after a restart
    path = again.download(PlainLink(server.server_port), task(), ignore)
    assert path.read_bytes() == CONTENT
    assert server.behaviour.asked == ["", "bytes=1000-", "bytes=1500-"]


def test_a_truncated_download_says_what_it_has(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.cut_after = 1000
    with pytest.raises(DownloadTruncated) as caught:
        fetch(bench, server, task())
    assert caught.value.evidence == {"have": 1000, "size": len(CONTENT)}
    assert [part.stat().st_size for part in bench.parts()] == [1000]


def test_a_server_that_ignores_ranges_does_not_spoil_the_file(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.cut_after = 1000
    with pytest.raises(DownloadTruncated):
        fetch(bench, server, task())
    server.behaviour.cut_after, server.behaviour.ranges = None, False
    assert fetch(bench, server, task()).read_bytes() == CONTENT


def test_an_artifact_longer_than_announced_is_thrown_away(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.content = CONTENT + b"more"
    with pytest.raises(DownloadDigest):
        fetch(bench, server, task())
    assert bench.parts() == []


def test_an_artifact_of_another_digest_is_thrown_away(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.content = CONTENT[:-1] + b"\0"
    with pytest.raises(DownloadDigest):
        fetch(bench, server, task())
    assert bench.parts() == []
    server.behaviour.content = CONTENT
    assert fetch(bench, server, task()).read_bytes() == CONTENT


def test_a_part_that_was_spoilt_on_the_disk_is_thrown_away(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.cut_after = 1000
    with pytest.raises(DownloadTruncated):
        fetch(bench, server, task())
    bench.parts()[0].write_bytes(b"\0" * 1000)
    server.behaviour.cut_after = None
    with pytest.raises(DownloadDigest):
        fetch(bench, server, task())
    assert fetch(bench, server, task()).read_bytes() == CONTENT


def test_a_part_longer_than_what_is_announced_now_is_fetched_anew(
    bench: Bench, server: ArtifactServer
) -> None:
    short = CONTENT[:500]
    server.behaviour.cut_after = 1000
    with pytest.raises(DownloadTruncated):
        fetch(bench, server, task(sha256=hashlib.sha256(short).hexdigest()))
    server.behaviour = Behaviour(content=short)
    assert fetch(bench, server, task(short)).read_bytes() == short


def test_a_part_of_another_artifact_is_never_gone_on_with(bench: Bench, server: ArtifactServer) -> None:
    server.behaviour.cut_after = 1000
    with pytest.raises(DownloadTruncated):
        fetch(bench, server, task())
    server.behaviour = Behaviour(content=b"other" * 1000)
    assert fetch(bench, server, task(b"other" * 1000)).read_bytes() == b"other" * 1000
    assert server.behaviour.asked == [""]
    assert len(bench.parts()) == 1


def test_a_digest_in_capitals_is_the_same_digest(bench: Bench, server: ArtifactServer) -> None:
    assert fetch(bench, server, task(sha256=hashlib.sha256(CONTENT).hexdigest().upper())).exists()


@pytest.mark.parametrize("size", [SLOT_SIZE + 1, 2**40, 0, -1])
def test_an_artifact_of_an_impossible_size_is_not_fetched(
    bench: Bench, server: ArtifactServer, size: int
) -> None:
    refused_before_asking(bench, server, task(size=size), ImageSize)


@pytest.mark.parametrize("digest", ["", "00", "g" * 64, "../" * 21 + "x", "0" * 63 + "/", "0" * 65])
def test_a_digest_never_becomes_a_path(bench: Bench, server: ArtifactServer, digest: str) -> None:
    refused_before_asking(bench, server, task(sha256=digest), PlaneRefused)


@pytest.mark.parametrize(
    "url", ["", "http://[", "http://h", "x", "//[", "/a b", "/é", "http://h//[x", "/a\r\nX: y"]
)
def test_a_link_that_leads_nowhere_is_refused(bench: Bench, server: ArtifactServer, url: str) -> None:
    refused_before_asking(bench, server, task(url=url), PlaneRefused)


def test_a_link_to_another_host_is_asked_of_the_plane(bench: Bench, server: ArtifactServer) -> None:
    assert fetch(bench, server, task(url="http://evil.example:1/a/image.bin")).read_bytes() == CONTENT


# --- install ---------------------------------------------------------------------------------------


def install(bench: Bench, image: bytes, *, counter: int = 5) -> None:
    path = bench.config.folder / "agent" / "image.part"
    path.write_bytes(image)
    bench.installer.install(path, task(image), running=bench.boot(0), counter=counter)


def assert_nothing_changes(
    bench: Bench, image: bytes, error: type[FuselineError], *, counter: int = 5
) -> None:
    """Refused; and the running image, both slots and the memory of updates stay as they were."""
    before = bench.slots()
    with pytest.raises(error):
        install(bench, image, counter=counter)
    assert bench.slots() == before
    assert bench.installer.pending is None
    assert bench.parts() == []
    assert bench.running(counter) == "1.0.0"


def test_a_good_image_goes_into_the_other_slot_on_trial(bench: Bench, author: Author) -> None:
    image = author.sign("2.0.0", 6)
    running = bench.store.read(0)
    install(bench, image)
    assert bench.store.read(0) == running
    assert bench.store.read(1).startswith(image)
    assert bench.store.trailer(1).magic_good
    assert not bench.store.trailer(1).image_ok
    assert bench.parts() == []
    assert bench.running(5) == "2.0.0"


def test_a_pending_update_survives_the_restart_until_it_is_told(bench: Bench, author: Author) -> None:
    install(bench, author.sign("2.0.0", 6))
    restarted = Installer(bench.config, bench.store)
    assert restarted.pending is not None
    assert (restarted.pending.action, restarted.pending.version) == ("7", "2.0.0")
    restarted.told()
    restarted.told()
    assert Installer(bench.config, bench.store).pending is None


def test_a_spoilt_memory_of_updates_is_forgotten(bench: Bench) -> None:
    (bench.config.folder / "agent" / "pending.json").write_bytes(b"{half")
    assert bench.installer.pending is None
    assert not (bench.config.folder / "agent" / "pending.json").exists()


def test_an_image_of_an_unknown_author_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    stranger = Author.make(tmp_path / "stranger")
    assert_nothing_changes(bench, stranger.sign("2.0.0", 6), ImageKeyUnknown)


def test_an_image_for_other_hardware_changes_nothing(bench: Bench, author: Author) -> None:
    assert_nothing_changes(bench, author.sign("2.0.0", 6, hardware="lock-v2"), ImageHardware)


def test_rollback_below_the_device_s_counter_changes_nothing(bench: Bench, author: Author) -> None:
    assert_nothing_changes(bench, author.sign("2.0.0", 4), ImageRollback)


@pytest.mark.parametrize("version", ["1.0.0", "0.9.9"])
def test_an_image_that_the_loader_would_not_choose_changes_nothing(
    bench: Bench, author: Author, version: str
) -> None:
    """A plane that offers old signed images again and again must not wear the flash out with them."""
    assert_nothing_changes(bench, author.sign(version, 6), ImageVersion)


def test_a_changed_image_changes_nothing(bench: Bench, author: Author) -> None:
    image = bytearray(author.sign("2.0.0", 6))
    image[0x220] ^= 1
    assert_nothing_changes(bench, bytes(image), ImageDigest)


def test_an_image_that_would_reach_into_the_trailer_changes_nothing(bench: Bench, author: Author) -> None:
    image = author.sign("2.0.0", 6, filler=SLOT_SIZE - len(author.sign("2.0.0", 6)) - 8)
    assert SLOT_SIZE - 16 <= len(image) <= SLOT_SIZE
    assert_nothing_changes(bench, image, ImageSize)


@pytest.mark.parametrize("image", [b"", b"\0" * 100, b"MZ" * 5000])
def test_what_is_no_image_changes_nothing(bench: Bench, image: bytes) -> None:
    assert_nothing_changes(bench, image, ImageMalformed)


# --- what the plane says ----------------------------------------------------------------------------


class Scripted(PlaneLink):
    """A plane that answers every request with one body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def request(self, method: str, path: str, *, body: bytes = b"", headers: object = None) -> Answer:
        del method, path, body, headers
        return Answer(200, {}, self._body)


def client(bench: Bench, answer: object) -> UpdateClient:
    return UpdateClient(bench.config, Scripted(msgspec.json.encode(answer)))


POLL = {"config": {"polling": {"sleep": "00:00:05"}}}


def test_a_poll_is_read(bench: Bench) -> None:
    links = {"deploymentBase": {"href": "https://elsewhere.example/acme/x?c=1"}}
    offer = client(bench, POLL | {"_links": links}).poll()
    assert (offer.sleep, offer.deployment, offer.config_data) == (5, "/acme/x", None)


@pytest.mark.parametrize(
    "answer", [[], {}, {"config": {}}, POLL | {"_links": {"deploymentBase": "x"}}, "x", 1]
)
def test_an_answer_that_is_not_ddi_is_refused(bench: Bench, answer: object) -> None:
    with pytest.raises(PlaneRefused):
        client(bench, answer).poll()


@pytest.mark.parametrize(
    "sleep", ["", "5", "00:00:-5", "aa:bb:cc", "00:60:00", "1:2:3", "\u0660\u0660:00:00"]
)
def test_a_poll_interval_that_is_none_is_refused(bench: Bench, sleep: str) -> None:
    with pytest.raises(MessageMalformed):
        client(bench, {"config": {"polling": {"sleep": sleep}}}).poll()


@pytest.mark.parametrize("href", ["http://[", "", "/a b", "/é"])
def test_a_poll_with_a_link_that_leads_nowhere_is_refused(bench: Bench, href: str) -> None:
    with pytest.raises(PlaneRefused):
        client(bench, POLL | {"_links": {"configData": {"href": href}}}).poll()


ARTIFACT = msgspec.to_builtins(task().artifact)
CHUNK = {"part": "bApp", "version": "2.0.0", "name": "app", "artifacts": [ARTIFACT]}


def deployment(action: str, *chunks: object) -> dict[str, object]:
    return {"id": action, "deployment": {"download": "forced", "update": "forced", "chunks": list(chunks)}}


def test_a_deployment_is_read(bench: Bench) -> None:
    assert client(bench, deployment("7", CHUNK)).task("/x") == task()


@pytest.mark.parametrize(
    "answer",
    [
        deployment("7"),
        deployment("7", CHUNK, CHUNK),
        deployment("7", CHUNK | {"artifacts": []}),
        deployment("7", CHUNK | {"artifacts": [ARTIFACT, ARTIFACT]}),
        deployment("", CHUNK),
        deployment("../7", CHUNK),
        deployment("7 HTTP/1.1", CHUNK),
        deployment("é", CHUNK),
    ],
)
def test_a_deployment_of_anything_but_one_artifact_is_refused(bench: Bench, answer: object) -> None:
    with pytest.raises(PlaneRefused):
        client(bench, answer).task("/x")


def test_pending_updates_are_values() -> None:
    assert msgspec.json.decode(
        msgspec.json.encode(PendingUpdate("1", "2", "3")), type=PendingUpdate
    ) == PendingUpdate("1", "2", "3")
