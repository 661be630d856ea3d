"""Rehearsing fuses on a copy: what is told, what is refused, and that the chip itself is never touched."""

from __future__ import annotations

import datetime as dt
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fuseline.device.silicon.fuse_map import (
    COUNTER,
    KEY_SLOT,
    PRODUCT,
    Counter,
    KeyType,
    LifeCycle,
)
from fuseline.device.silicon.fuse_view import read_fuses
from fuseline.device.silicon.memory_map import DebugState, ResetReason
from fuseline.device.silicon.report import Outcome
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import (
    DebugNoChallenge,
    DebugRefused,
    FuseArgument,
    FuseDebug,
    FuseLastKey,
    FuseLocked,
    FuseOrder,
    FuseRequestEmpty,
)
from fuseline.lab.chip.bench import Bench
from fuseline.lab.chip.debug_unlock import DebugResponse, ask_challenge, give_response, sign_response
from fuseline.lab.chip.factory import ChipFactory, make_factory
from fuseline.lab.chip.manifest import read_manifest
from fuseline.lab.chip.provisioning import Provisioning, wafer_test
from fuseline.lab.chip.rehearsal import FuseRequest, NewKey, Rehearsal, Verdict, blow, plan_request, rehearse


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> ChipFactory:
    return make_factory(tmp_path_factory.mktemp("chips") / "factory")


@pytest.fixture(scope="module")
def engine() -> UnicornEngine:
    return UnicornEngine()


@pytest.fixture(scope="module")
def authority(factory: ChipFactory) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(factory.key("debug-authority").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.fixture(scope="module")
def product(factory: ChipFactory, engine: UnicornEngine) -> SiliconSnapshot:
    bench = Bench(Silicon(3), engine)
    wafer_test(bench.silicon)
    manifest = read_manifest(factory.manifest)
    Provisioning(bench, manifest, now=dt.datetime.now(dt.UTC), progress=lambda _: None).run()
    return bench.silicon.snapshot()


@pytest.fixture
def bench(product: SiliconSnapshot, engine: UnicornEngine) -> Bench:
    silicon = Silicon(product.seed)
    silicon.restore(product)
    return Bench(silicon, engine)


@pytest.fixture
def raw_chip(engine: UnicornEngine) -> Bench:
    """A chip as it leaves wafer test: no key, no loader, no PUF."""
    silicon = Silicon(4)
    wafer_test(silicon)
    return Bench(silicon, engine)


def reset(bench: Bench) -> None:
    bench.silicon.reset()


def try_out(
    bench: Bench,
    request: FuseRequest,
    key: ec.EllipticCurvePrivateKey | None = None,
    cut_at: int | None = None,
) -> Rehearsal:
    """Rehearse a request, and make sure that the chip did not notice."""
    before, retention = bench.silicon.non_volatile(), bytes(bench.silicon.retention)

    def prepare(twin: Bench) -> None:
        twin.silicon.reset()
        if key is not None:
            give_response(twin, sign_response(ask_challenge(twin), key))

    planned = plan_request(request, bench.silicon.fuses.life_cycle)
    try:
        return rehearse(bench, planned, prepare=prepare, cut_at=cut_at)
    finally:
        assert (bench.silicon.non_volatile(), bytes(bench.silicon.retention)) == (before, retention)


# --- verdicts ------------------------------------------------------------------------------------------


def test_revoking_the_spare_key_leaves_a_chip_that_boots(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    rehearsal = try_out(bench, FuseRequest(revoke=(1,)), authority)
    assert rehearsal.verdict is Verdict.BOOTS
    assert [(change.field, change.bits) for change in rehearsal.changes] == [("key 1 revoked", 32)] * 2
    assert rehearsal.operations == 64
    assert rehearsal.new_faults == ()


def test_revoking_the_key_that_signed_the_loader_would_brick_the_chip(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    rehearsal = try_out(bench, FuseRequest(revoke=(0,)), authority)
    assert rehearsal.verdict is Verdict.NO_LONGER_BOOTS
    assert rehearsal.verdict.harmful
    assert rehearsal.after.error is not None
    assert rehearsal.after.error.code == "E_ROM_KEY_REVOKED"


def test_a_counter_above_the_loaders_own_would_brick_the_chip(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    rehearsal = try_out(bench, FuseRequest(counters=((Counter.LOADER, 2),)), authority)
    assert rehearsal.verdict is Verdict.NO_LONGER_BOOTS
    assert [change.as_dict()["after"] for change in rehearsal.changes] == ["0x00000003"] * 2
    assert rehearsal.after.error is not None
    assert rehearsal.after.error.code == "E_ROM_ROLLBACK"


def test_scrapping_a_chip_is_told_as_what_it_is(raw_chip: Bench) -> None:
    request = FuseRequest(life_cycle=LifeCycle.PROD)
    assert try_out(raw_chip, request).verdict is Verdict.CAN_NEVER_BOOT
    request = FuseRequest(life_cycle=LifeCycle.DEV)
    assert try_out(raw_chip, request).verdict is Verdict.DOES_NOT_BOOT


def test_stray_bits_in_a_field_are_told_as_an_integrity_fault(raw_chip: Bench) -> None:
    rehearsal = try_out(raw_chip, FuseRequest(raw=((PRODUCT, 0x0F),)))
    assert [fault.field for fault in rehearsal.new_faults] == ["product"]
    assert rehearsal.changes[0].meaning == "as asked, bit by bit"


def test_a_request_is_blown_in_the_order_in_which_a_cut_does_least_harm() -> None:
    key = NewKey(2, hashlib.sha256(b"key").digest(), KeyType.PROD)
    request = FuseRequest(
        keys=(key,),
        debug_authority=hashlib.sha256(b"authority").digest(),
        counters=((Counter.LOADER, 2),),
        revoke=(1,),
        raw=((PRODUCT, 1),),
        life_cycle=LifeCycle.PROD,
    )
    meanings = [item.meaning for item in plan_request(request, LifeCycle.TEST)]
    assert meanings == [
        "key slot 2: PROD key",
        "debug authority",
        "loader counter to 2",
        "revoke key slot 1",
        "as asked, bit by bit",
        "life cycle DEV",
        "life cycle PROD",
    ]


# --- what the controller refuses is refused in the rehearsal ------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (FuseRequest(revoke=(0, 1)), FuseLastKey),
        (FuseRequest(keys=(NewKey(2, hashlib.sha256(b"x").digest(), KeyType.PROD),)), FuseLocked),
        (FuseRequest(raw=((200, 1),)), FuseArgument),
        (FuseRequest(raw=((KEY_SLOT, 1 << 32),)), FuseArgument),
        (FuseRequest(), FuseRequestEmpty),
        (FuseRequest(counters=((Counter.LOADER, 1),)), FuseRequestEmpty),
    ],
    ids=["last key", "key in PROD", "no field", "33 bits", "nothing", "so already"],
)
def test_what_hardware_refuses_is_refused_on_the_copy(
    bench: Bench, authority: ec.EllipticCurvePrivateKey, request_: FuseRequest, refused: type[Exception]
) -> None:
    with pytest.raises(refused):
        try_out(bench, request_, authority)


def test_a_closed_port_keeps_a_tester_away_from_a_products_fuses(bench: Bench) -> None:
    with pytest.raises(FuseDebug):
        try_out(bench, FuseRequest(revoke=(1,)))


@pytest.mark.parametrize("target", [LifeCycle.TEST, LifeCycle.DEV, LifeCycle.BLANK])
def test_the_life_cycle_never_goes_back(bench: Bench, target: LifeCycle) -> None:
    with pytest.raises(FuseOrder):
        plan_request(FuseRequest(life_cycle=target), bench.silicon.fuses.life_cycle)


def test_numbers_that_no_chip_has_are_refused() -> None:
    for wrong in (
        FuseRequest(revoke=(4,)),
        FuseRequest(counters=((Counter.LOADER, 129),)),
        FuseRequest(keys=(NewKey(9, bytes(32), KeyType.PROD),)),
        FuseRequest(debug_authority=b"short"),
    ):
        with pytest.raises(FuseArgument):
            plan_request(wrong, LifeCycle.TEST)


# --- the supply fails in the middle -----------------------------------------------------------------------


def test_every_cut_in_a_revocation_leaves_a_chip_that_boots_its_loader(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    for cut_at in (1, 2, 17, 32, 33, 64):
        rehearsal = try_out(bench, FuseRequest(revoke=(1,)), authority, cut_at)
        assert rehearsal.cut
        assert rehearsal.operations == cut_at
        assert sum(change.half_blown.bit_count() for change in rehearsal.changes) == 1
        assert rehearsal.after.outcome is Outcome.BOOTED, cut_at


def test_a_cut_behind_the_last_operation_never_happens(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    rehearsal = try_out(bench, FuseRequest(revoke=(1,)), authority, 65)
    assert (rehearsal.cut, rehearsal.verdict) == (False, Verdict.BOOTS)


def test_a_plan_that_was_cut_is_completed_by_blowing_it_again(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    give_response(bench, sign_response(ask_challenge(bench), authority))
    planned = plan_request(FuseRequest(revoke=(1,)), LifeCycle.PROD)
    bench.silicon.power.cut_at = bench.silicon.power.operations + 9
    with pytest.raises(BaseException, match="fuse word"):
        blow(bench, planned)
    bench.silicon.power.cut_at = None
    give_response(bench, sign_response(ask_challenge(bench), authority))
    blow(bench, planned)
    assert read_fuses(bench.certain_fuses()).keys[1].revoked
    assert bench.silicon.fuses.content().half_blown == ()


# --- the document ---------------------------------------------------------------------------------------


def test_the_json_document_names_each_word_before_and_after(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    document = try_out(bench, FuseRequest(counters=((Counter.FIRMWARE_0, 3),)), authority).as_dict()
    assert document["changes"] == [
        {
            "word": COUNTER + 8 + copy,
            "field": "firmware 0 counter",
            "meaning": "firmware 0 counter to 3",
            "before": "0x00000000",
            "after": "0x00000007",
            "half_blown": "0x00000000",
        }
        for copy in (0, 4)
    ]
    assert (document["verdict"], document["harmful"], document["bits"]) == ("boots", False, 6)
    assert document["before"]["outcome"] == document["after"]["outcome"] == "booted"


# --- debug unlock ---------------------------------------------------------------------------------------


def test_debug_is_open_after_the_authoritys_response_until_the_next_reset(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    report = give_response(bench, sign_response(ask_challenge(bench), authority))
    assert (report.outcome, report.debug) == (Outcome.BOOTED, DebugState.OPEN)
    assert bench.silicon.debug is DebugState.OPEN
    again = bench.boot(reason=ResetReason.WARM)
    assert again.debug is DebugState.LOCKED
    assert report.record is not None
    assert again.record is not None
    # Debug is part of the identity: what ran with an open port cannot speak as what runs with a closed one.
    assert report.record.idevid_public != again.record.idevid_public


def test_replaying_a_debug_response_opens_nothing(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    response = sign_response(ask_challenge(bench), authority)
    give_response(bench, response)
    with pytest.raises(DebugNoChallenge):
        give_response(bench, response)
    # The replay made the chip ask anew: the old response does not answer that either.
    with pytest.raises(DebugRefused):
        give_response(bench, response)
    assert bench.silicon.debug is DebugState.LOCKED


def test_a_response_to_another_chips_challenge_opens_nothing(
    bench: Bench, product: SiliconSnapshot, engine: UnicornEngine, authority: ec.EllipticCurvePrivateKey
) -> None:
    twin = bench.copy()
    twin.boot()
    response = sign_response(ask_challenge(twin), authority)
    ask_challenge(bench)
    with pytest.raises(DebugRefused) as refused:
        give_response(bench, response)
    assert refused.value.evidence["rom_error"]["code"] == "E_ROM_DEBUG_SIGNATURE"


def test_a_response_after_another_boot_opens_nothing(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    response = sign_response(ask_challenge(bench), authority)
    bench.boot(reason=ResetReason.WARM)
    with pytest.raises((DebugRefused, DebugNoChallenge)):
        give_response(bench, response)


def test_a_response_by_another_key_or_of_another_shape_opens_nothing(
    bench: Bench, authority: ec.EllipticCurvePrivateKey
) -> None:
    challenge = ask_challenge(bench)
    good = sign_response(challenge, authority)
    stranger = sign_response(challenge, ec.generate_private_key(ec.SECP256R1()))
    wrong = (
        stranger,
        DebugResponse(good.spki, stranger.signature),
        DebugResponse(good.spki[:-1], good.signature),
        DebugResponse(good.spki, bytes(64)),
    )
    for response in wrong:
        ask_challenge(bench)
        with pytest.raises(DebugRefused):
            give_response(bench, response)
    assert bench.silicon.debug is DebugState.LOCKED


def test_a_chip_whose_port_is_open_has_no_challenge_to_give(raw_chip: Bench) -> None:
    with pytest.raises(DebugRefused):
        ask_challenge(raw_chip)


def test_a_bench_without_an_engine_does_not_boot(raw_chip: Bench) -> None:
    with pytest.raises(RuntimeError):
        Bench(raw_chip.silicon, None).boot()
