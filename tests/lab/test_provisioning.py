"""A factory's flow from wafer test to a product: every cut of the supply, every wrong manifest."""

from __future__ import annotations

import datetime as dt
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fuseline.device.silicon.fuse_map import Counter, KeyType, LifeCycle
from fuseline.device.silicon.fuse_plans import plan_life_cycle, plan_product
from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.device.silicon.memory_map import HELPER_A, DebugState
from fuseline.device.silicon.power import PowerLost
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.rom import probe_image
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import (
    ChipManifestDuplicate,
    ChipManifestFile,
    ChipManifestMalformed,
    ChipManifestNoKey,
    ChipManifestTestKey,
    DiceChain,
    FuselineError,
    ProvisioningConflict,
    ProvisioningFailed,
    ProvisioningLifeCycle,
    StateMissing,
)
from fuseline.formats import dice
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.factory import ChipFactory, LoaderSpec, make_factory, sign_loader
from fuseline.lab.chip.manifest import ChipManifest, read_manifest
from fuseline.lab.chip.provisioning import Provisioned, Provisioning, Step, wafer_test

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> ChipFactory:
    return make_factory(tmp_path_factory.mktemp("chips") / "factory")


@pytest.fixture(scope="module")
def manifest(factory: ChipFactory) -> ChipManifest:
    return read_manifest(factory.manifest)


@pytest.fixture(scope="module")
def engine() -> UnicornEngine:
    return UnicornEngine()


@pytest.fixture(scope="module")
def fresh() -> SiliconSnapshot:
    """A chip as it leaves wafer test."""
    silicon = Silicon(7)
    wafer_test(silicon)
    silicon.power.operations = 0
    return silicon.snapshot()


def bench_of(snapshot: SiliconSnapshot, engine: UnicornEngine) -> Bench:
    silicon = Silicon(snapshot.seed)
    silicon.restore(snapshot)
    return Bench(silicon, engine)


def provision(bench: Bench, manifest: ChipManifest) -> Provisioned:
    steps: list[Step] = []
    result = Provisioning(bench, manifest, now=NOW, progress=steps.append).run()
    assert tuple(steps) == result.steps
    return result


@pytest.fixture(scope="module")
def finished(
    fresh: SiliconSnapshot, manifest: ChipManifest, engine: UnicornEngine
) -> tuple[Bench, Provisioned]:
    bench = bench_of(fresh, engine)
    return bench, provision(bench, manifest)


def facts(bench: Bench) -> dict[str, object]:
    """What the fuses say, without what each enrolment makes anew."""
    return {**read_fuses(bench.silicon.fuses.words()).as_dict(), "puf_check": None}


def test_a_chip_becomes_a_product_whose_identity_leads_back_to_the_factory(
    finished: tuple[Bench, Provisioned], manifest: ChipManifest
) -> None:
    bench, result = finished
    view = read_fuses(bench.silicon.fuses.words())
    assert (view.life_cycle, view.faults, view.puf_enrolled) == (LifeCycle.PROD, (), True)
    assert [key.key_type for key in view.keys] == [KeyType.PROD, KeyType.PROD, None, None]
    assert view.counters[Counter.LOADER] == 1
    assert (view.product, view.hardware_revision) == (manifest.product_id, manifest.hardware_revision)
    assert bench.silicon.debug is DebugState.LOCKED
    assert result.boot.outcome is Outcome.BOOTED
    assert result.chain.chip_id == view.chip_id == result.chip_id
    assert result.name == f"chip-{result.chip_id[:8].hex()}.chips.fuseline.test" == result.chain.name
    assert result.chain.layers[0].flags == dice.TcbFlags(0)
    assert result.chain.layers[0].svn == 1


def test_provisioning_a_product_again_changes_nothing(
    finished: tuple[Bench, Provisioned], manifest: ChipManifest
) -> None:
    bench = finished[0].copy()
    fuses, flash = bench.silicon.fuses.content(), bench.silicon.flash.digest()
    again = provision(bench, manifest)
    assert not any(step.changed for step in again.steps)
    assert (bench.silicon.fuses.content(), bench.silicon.flash.digest()) == (fuses, flash)
    assert again.certificate == finished[1].certificate


def test_the_certificate_of_another_chip_is_replaced(
    finished: tuple[Bench, Provisioned], manifest: ChipManifest, engine: UnicornEngine
) -> None:
    silicon = Silicon(8)
    wafer_test(silicon)
    other = Bench(silicon, engine)
    other.write_identity(finished[1].certificate.public_bytes(Encoding.DER))
    result = provision(other, manifest)
    assert result.certificate != finished[1].certificate
    assert other.read_identity() == result.certificate


def test_fuses_and_flash_copied_onto_another_chip_do_not_make_its_twin(
    finished: tuple[Bench, Provisioned], engine: UnicornEngine
) -> None:
    clone = Bench(Silicon(8, non_volatile=finished[0].silicon.non_volatile()), engine)
    report = clone.boot()
    assert report.outcome is Outcome.REFUSED
    assert report.error is not None
    assert report.error.code in {"E_ROM_PUF_RECONSTRUCT", "E_ROM_PUF_CHECK"}


def test_a_chain_of_another_factory_is_refused(finished: tuple[Bench, Provisioned], tmp_path: Path) -> None:
    other = read_manifest(make_factory(tmp_path / "other").manifest)
    bench = finished[0].copy()
    record = bench.boot().record
    assert record is not None
    chain = [finished[1].certificate.public_bytes(Encoding.DER), record.certificate]
    with pytest.raises(DiceChain):
        dice.verify_chain(chain, anchor=other.ca, now=NOW)


# --- the supply fails ----------------------------------------------------------------------------------


def operations_of(fresh: SiliconSnapshot, manifest: ChipManifest, engine: UnicornEngine) -> int:
    bench = bench_of(fresh, engine)
    provision(bench, manifest)
    return bench.silicon.power.operations


def cut_and_resume(bench: Bench, manifest: ChipManifest, *cuts: int) -> Provisioned:
    """Cut the supply at these operations, one run after the other, then let a run end."""
    power = bench.silicon.power
    for cut in cuts:
        power.operations, power.cut_at = 0, cut
        with pytest.raises(PowerLost):
            provision(bench, manifest)
    power.cut_at = None
    return provision(bench, manifest)


def test_a_cut_anywhere_in_the_flow_is_resumed_to_the_same_product(
    fresh: SiliconSnapshot,
    manifest: ChipManifest,
    engine: UnicornEngine,
    finished: tuple[Bench, Provisioned],
) -> None:
    total = operations_of(fresh, manifest, engine)
    # The first and last operations, where most of the state is fuses; flash words between are all alike.
    sample = {1, 2, total, total - 1, total - 40, *random.Random(3).sample(range(1, total), 12)}
    for cut in sorted(sample):
        bench = bench_of(fresh, engine)
        result = cut_and_resume(bench, manifest, cut)
        assert facts(bench) == facts(finished[0]), cut
        assert result.boot.outcome is Outcome.BOOTED, cut


def test_a_resumed_flow_that_is_cut_again_is_resumed_again(
    fresh: SiliconSnapshot,
    manifest: ChipManifest,
    engine: UnicornEngine,
    finished: tuple[Bench, Provisioned],
) -> None:
    bench = bench_of(fresh, engine)
    cut_and_resume(bench, manifest, 900, 5, 300, 1, 60)
    assert facts(bench) == facts(finished[0])


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_a_cut_at_every_operation_is_resumed_to_the_same_product(
    fresh: SiliconSnapshot,
    manifest: ChipManifest,
    engine: UnicornEngine,
    finished: tuple[Bench, Provisioned],
) -> None:
    for cut in range(1, operations_of(fresh, manifest, engine) + 1):
        bench = bench_of(fresh, engine)
        cut_and_resume(bench, manifest, cut)
        assert facts(bench) == facts(finished[0]), cut


def test_a_chip_whose_helper_data_were_edited_is_not_certified(
    finished: tuple[Bench, Provisioned], manifest: ChipManifest
) -> None:
    bench = finished[0].copy()
    for offset in (HELPER_A, HELPER_A + 0x1000):
        bench.silicon.flash.external_write(offset, bytes(64))
    with pytest.raises(ProvisioningFailed) as refused:
        provision(bench, manifest)
    assert str(refused.value.evidence["rom_code"]).startswith("E_ROM_PUF")


# --- what is refused before a fuse is blown -------------------------------------------------------------


def test_a_chip_begun_with_another_manifest_is_refused_and_left_alone(
    fresh: SiliconSnapshot, manifest: ChipManifest, engine: UnicornEngine
) -> None:
    bench = bench_of(fresh, engine)
    bench.silicon.fuses.blow_all(plan_product(manifest.product_id + 1, 1))
    before = bench.silicon.fuses.content()
    with pytest.raises(ProvisioningConflict) as refused:
        provision(bench, manifest)
    assert refused.value.evidence["field"] == "product"
    assert bench.silicon.fuses.content() == before


def test_a_single_foreign_fuse_in_a_key_slot_is_noticed(
    fresh: SiliconSnapshot, manifest: ChipManifest, engine: UnicornEngine
) -> None:
    bench = bench_of(fresh, engine)
    bench.silicon.fuses.blow(64 + 2 * 16, 1)  # key slot 2 is not in the manifest
    with pytest.raises(ProvisioningConflict):
        provision(bench, manifest)


@pytest.mark.parametrize("state", [LifeCycle.BLANK, LifeCycle.SCRAP])
def test_only_chips_between_wafer_test_and_product_are_provisioned(
    state: LifeCycle, manifest: ChipManifest, engine: UnicornEngine
) -> None:
    silicon = Silicon(9)
    for step in range(1, state + 1):
        silicon.state.debug = DebugState.OPEN
        silicon.fuses.blow_all(plan_life_cycle(LifeCycle(step)))
    with pytest.raises(ProvisioningLifeCycle):
        provision(Bench(silicon, engine), manifest)


def test_wafer_test_happens_once() -> None:
    silicon = Silicon(9)
    wafer_test(silicon)
    with pytest.raises(ProvisioningLifeCycle):
        wafer_test(silicon)


def test_a_loader_that_the_rom_refuses_fails_on_the_copy(
    fresh: SiliconSnapshot, factory: ChipFactory, engine: UnicornEngine, tmp_path: Path
) -> None:
    edited = edit(factory, tmp_path, lambda text: text.replace("counter = 1", "counter = 2"))
    bench = bench_of(fresh, engine)
    with pytest.raises(ProvisioningFailed) as refused:
        provision(bench.copy(), read_manifest(edited))
    assert refused.value.evidence["rom_code"] == "E_ROM_ROLLBACK"
    assert bench.silicon.fuses.life_cycle is LifeCycle.TEST


# --- the manifest --------------------------------------------------------------------------------------


def edit(factory: ChipFactory, tmp_path: Path, change: Callable[[str], str]) -> Path:
    folder = tmp_path / "edited"
    shutil.copytree(factory.folder, folder)
    path = folder / "manifest.toml"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    return path


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


WRONG: dict[str, tuple[Callable[[str], str], type[FuselineError], str]] = {
    "not TOML": (lambda text: text + "[", ChipManifestMalformed, ""),
    "other format": (lambda text: text.replace("format = 1", "format = 2"), ChipManifestMalformed, "format"),
    "unknown key": (lambda text: text + "spare = 1\n", ChipManifestMalformed, "spare"),
    "no table": (lambda text: text.replace("[loader]", "[lader]"), ChipManifestMalformed, "la"),
    "wrong type": (lambda text: text.replace("slot = 0", 'slot = "0"'), ChipManifestMalformed, "slot"),
    "no such type": (
        lambda text: text.replace('type = "prod"', 'type = "root"', 1),
        ChipManifestMalformed,
        "type",
    ),
    "slot out of range": (lambda text: text.replace("slot = 1", "slot = 4"), ChipManifestMalformed, "slot"),
    "negative revision": (
        lambda text: text.replace("hardware_revision = 1", "hardware_revision = -1"),
        ChipManifestMalformed,
        "hardware_revision",
    ),
    "counter too high": (
        lambda text: text.replace("counter = 1", "counter = 128"),
        ChipManifestMalformed,
        "",
    ),
    "no domain": (lambda text: text.replace("chips.fuseline.test", "-"), ChipManifestMalformed, "domain"),
    "key file gone": (lambda text: text.replace("loader-1.pub", "gone"), ChipManifestFile, "gone"),
    "key is no key": (
        lambda text: text.replace("loader-1.pub.pem", "loader.bin"),
        ChipManifestFile,
        "loader",
    ),
    "image gone": (lambda text: text.replace("loader.bin", "gone.bin"), ChipManifestFile, "gone.bin"),
    "image is none": (
        lambda text: text.replace("loader.bin", "DEVELOPMENT"),
        ChipManifestFile,
        "DEVELOPMENT",
    ),
    "CA is none": (
        lambda text: text.replace("factory-ca.pem", "loader.bin"),
        ChipManifestFile,
        "loader.bin",
    ),
    "CA's key is another": (
        lambda text: text.replace("factory-ca.key", "loader-0.key"),
        ChipManifestFile,
        "loader-0.key",
    ),
    "test key by type": (
        lambda text: text.replace('type = "prod"', 'type = "test"', 1),
        ChipManifestTestKey,
        "loader-0.pub.pem",
    ),
    "test key by mark": (
        lambda text: text.replace("loader-1.pub.pem", "loader-test.pub.pem"),
        ChipManifestTestKey,
        "loader-test.pub.pem",
    ),
    "same key twice": (
        lambda text: text.replace("loader-1.pub.pem", "loader-0.pub.pem"),
        ChipManifestDuplicate,
        "loader-0.pub.pem",
    ),
    "same key, private and public": (
        lambda text: text.replace("loader-1.pub.pem", "loader-0.key"),
        ChipManifestDuplicate,
        "loader-0.key",
    ),
    "same slot twice": (lambda text: text.replace("slot = 1", "slot = 0"), ChipManifestDuplicate, "slot"),
    "no PROD key": (lambda text: text.replace('"prod"', '"dev"'), ChipManifestNoKey, "prod"),
    "no key": (
        lambda text: text[: text.index("[[key]]")].replace("format", "key = []\nformat"),
        ChipManifestNoKey,
        "",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_is_refused_with_what_is_wrong(
    case: str, factory: ChipFactory, tmp_path: Path
) -> None:
    change, refused, named = WRONG[case]
    with pytest.raises(refused) as error:
        read_manifest(edit(factory, tmp_path, change))
    assert type(error.value) is refused
    assert named in error.value.diagnostics()


@pytest.mark.parametrize("kind", ["rsa", "p384", "encrypted", "missing folder"])
def test_keys_of_other_kinds_are_refused(kind: str, factory: ChipFactory, tmp_path: Path) -> None:
    path = edit(factory, tmp_path, lambda text: text.replace("loader-1.pub.pem", "strange.pem"))
    keys = {
        "rsa": _pem(rsa.generate_private_key(65537, 2048)),
        "p384": _pem(ec.generate_private_key(ec.SECP384R1())),
        "encrypted": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    }
    if kind in keys:
        (path.parent / "strange.pem").write_bytes(keys[kind])
    with pytest.raises(ChipManifestFile):
        read_manifest(path)


def test_an_ed25519_loader_key_is_taken(
    factory: ChipFactory, fresh: SiliconSnapshot, engine: UnicornEngine, tmp_path: Path
) -> None:
    path = edit(factory, tmp_path, lambda text: text.replace("loader-0.pub.pem", "ed25519.pem"))
    key = ed25519.Ed25519PrivateKey.generate()
    private = tmp_path / "ed25519.key"
    private.write_bytes(_pem(key))
    (path.parent / "ed25519.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (path.parent / "loader.bin").write_bytes(sign_loader(probe_image(), private, LoaderSpec()))
    result = provision(bench_of(fresh, engine), read_manifest(path))
    assert result.boot.outcome is Outcome.BOOTED


def test_nobody_can_unlock_a_chip_without_a_debug_authority(
    factory: ChipFactory, fresh: SiliconSnapshot, engine: UnicornEngine, tmp_path: Path
) -> None:
    path = edit(factory, tmp_path, lambda text: re.sub(r"\[debug\]\n.*\n", "", text))
    bench = bench_of(fresh, engine)
    provision(bench, read_manifest(path))
    assert read_fuses(bench.silicon.fuses.words()).debug_authority is None


# --- the development factory ----------------------------------------------------------------------------


def test_a_factory_is_loud_private_and_whole(factory: ChipFactory) -> None:
    assert "DEVELOPMENT" in (factory.folder / "DEVELOPMENT").read_text()
    assert "DEVELOPMENT" in factory.manifest.read_text()
    assert read_manifest(factory.manifest).development
    assert all(path.stat().st_mode & 0o077 == 0 for path in factory.folder.iterdir())
    assert factory.folder.stat().st_mode & 0o077 == 0


def test_a_factory_is_never_made_over_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StateMissing):
        make_factory(tmp_path)
    with pytest.raises(StateMissing):
        make_factory(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
