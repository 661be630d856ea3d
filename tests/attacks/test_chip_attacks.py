"""The catalogue of attacks on the chip: each is refused, for its reason; and each could win."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fuseline.device.silicon import folder, trng
from fuseline.device.silicon.command_port import CommandPort
from fuseline.device.silicon.commands import Command, KeySlot
from fuseline.device.silicon.fuse_map import KeyType
from fuseline.device.silicon.fuses import FuseArray
from fuseline.device.silicon.memory_map import MAILBOX, PUF_ROWS, PUF_ROWS_SIZE
from fuseline.device.silicon.puf import HELPER_SIZE
from fuseline.device.silicon.rom import load_requirements
from fuseline.device.silicon.silicon import Silicon, SiliconSnapshot
from fuseline.device.silicon.unicorn_engine import UnicornEngine
from fuseline.errors import ChipAttackUnknown, PufFailure
from fuseline.lab.chip.manifest import LoaderKey
from fuseline.lab.chip_attacks import fuses as fuse_attacks
from fuseline.lab.chip_attacks import provisioning as provisioning_attacks
from fuseline.lab.chip_attacks.catalogue import CATALOGUE, carry_out, choose
from fuseline.lab.chip_attacks.forge import ImageSpec, forge, stop_payload
from fuseline.lab.chip_attacks.model import Attack, AttackResult, Attempt, Effort, Holds, Verdict
from fuseline.lab.chip_attacks.puppet import command, load, puppet, read_notes, store
from fuseline.lab.chip_attacks.rig import Rig, fuse_words, lab_keys, lab_manifest, with_fuses

ROM_CHECKS = tomllib.loads(Path(__file__).with_name("rom_checks.toml").read_text())["control"]
WITH_A_MUTANT = {attack for row in ROM_CHECKS for attack in row["attacks"]}
"""Attacks that win against a ROM without one of its checks, in `test_chip_mutation_controls.py`."""
AGAINST_PHYSICS = {
    "cut-provisioning",
    "fuses-by-code",
    "fuses-by-probe",
    "half-blown-fuses",
    "helper-oracle",
    "rewind",
    "stuck-noise",
}
"""Attacks that the blocks around the ROM stop; below, each wins against weakened ones."""


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(UnicornEngine())


@pytest.fixture
def own_rig(rig: Rig) -> Rig:
    """A rig whose chip may be taken apart."""
    return Rig(rig.engine, victims=rig.victims)


def run(name: str, rig: Rig, effort: Effort = Effort.QUICK) -> AttackResult:
    (attack,) = choose([name])
    return carry_out(attack, rig, effort)


def assert_refused(result: AttackResult) -> None:
    assert result.verdict is Verdict.REFUSED, [attempt.as_dict() for attempt in result.escaped[:10]]
    wrong = [
        attempt
        for attempt in result.attempts
        if attempt.expected and attempt.verdict is Verdict.REFUSED and attempt.seen != attempt.expected
    ]
    assert wrong == []


@pytest.mark.parametrize("attack", CATALOGUE, ids=lambda attack: attack.name)
def test_the_attack_is_refused_and_for_its_reason(attack: Attack, rig: Rig) -> None:
    assert_refused(carry_out(attack, rig, Effort.QUICK))


@pytest.mark.sweep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attack", CATALOGUE, ids=lambda attack: attack.name)
def test_the_attack_is_refused_at_every_point(attack: Attack, rig: Rig) -> None:
    assert_refused(carry_out(attack, rig, Effort.FULL))


# --- each attack could win -------------------------------------------------------------------------------


def test_no_attack_is_in_the_catalogue_that_could_not_win() -> None:
    assert {attack.name for attack in CATALOGUE} == WITH_A_MUTANT | AGAINST_PHYSICS
    assert WITH_A_MUTANT.isdisjoint(AGAINST_PHYSICS)


class TalkativePort(CommandPort):
    """A command port that says when helper data do not decode."""

    def __init__(self, silicon: Silicon) -> None:
        super().__init__(silicon)
        self.chip = silicon

    def ring(self) -> None:
        mailbox = self.chip.psram.view(MAILBOX, 12).cast("I")
        asked, helper = mailbox[0], mailbox[2]
        super().ring()
        if asked == Command.PUF_RECONSTRUCT and self.chip.error_word is None:
            rows = bytes(self.chip.psram.view(PUF_ROWS, PUF_ROWS_SIZE))
            try:
                self.chip.puf.reconstruct(rows, bytes(self.chip.psram.view(helper, HELPER_SIZE)))
            except PufFailure:
                self.chip.fail(word_of("E_ROM_PUF_CHECK"))


def word_of(code: str) -> int:
    return next(item.word for item in load_requirements().values() if item.code == code)


def test_helper_manipulation_reads_the_secret_of_a_chip_that_tells_of_failures(
    own_rig: Rig,
) -> None:
    own_rig.silicon.port = TalkativePort(own_rig.silicon)
    result = run("helper-oracle", own_rig)
    assert {attempt.what.rpartition(", by ")[2]: attempt.seen for attempt in result.escaped} == {
        "instruction count": "the whole secret",
        "console": "the whole secret",
    }


def _allow(*_: object) -> None:
    """A check that finds nothing wrong."""


@pytest.mark.parametrize("name", ["fuses-by-probe", "fuses-by-code"])
def test_fuses_change_if_their_controller_forbids_nothing(
    name: str, own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FuseArray, "_permit", _allow)
    assert run(name, own_rig).verdict is Verdict.ESCAPED


def test_a_chip_is_rewound_if_its_folder_does_not_compare(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_require_later", _allow)
    assert len(run("rewind", rig).escaped) == 5


def test_stuck_noise_enrols_a_chip_whose_noise_is_not_tested(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trng, "_has_run", lambda *_: False)
    monkeypatch.setattr(trng, "PROPORTION_CUTOFF", trng.WINDOW + 1)
    assert len(run("stuck-noise", own_rig).escaped) >= 8


def test_a_fuse_that_became_whole_shows_as_more_than_before_or_after(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def healed(change: fuse_attacks._Change, *_: object) -> SiliconSnapshot:
        words = fuse_words(change.chip)
        for word in range(64, 128):
            if word % 16 in {12, 13}:
                words[word] = 0
        return with_fuses(change.chip, words)

    monkeypatch.setattr(fuse_attacks, "_cut", healed)
    escaped = run("half-blown-fuses", rig).escaped
    assert {attempt.seen for attempt in escaped} == {"permits revoked key"}


def test_a_factory_that_trusts_a_stranger_is_noticed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = LoaderKey(2, KeyType.PROD, lab_keys().stranger.spki)
    keys = tuple(stranger if key.slot == 2 else key for key in lab_manifest().keys)
    monkeypatch.setattr(provisioning_attacks, "lab_manifest", lambda: replace(lab_manifest(), keys=keys))
    escaped = run("cut-provisioning", rig).escaped
    assert escaped
    assert all("stranger" in attempt.what for attempt in escaped)


# --- the bench -------------------------------------------------------------------------------------------


def test_the_victim_boots_its_owners_loader_and_knows_it_by_its_measurement(rig: Rig) -> None:
    for signer, slot in ((rig.keys.loader, 0), (rig.keys.ed25519, 1)):
        spec = ImageSpec()
        report = rig.start(forge(spec, signer))
        assert report.record is not None
        assert (report.record.measurement, report.record.key_slot) == (spec.digest(), slot)
        assert report.exit_status == 0


def test_the_secrets_that_are_looked_for_are_the_chips(rig: Rig) -> None:
    """The key slots of a chip that runs are those that its public key comes from."""
    silicon = rig.insert()
    rig.boot(forge(ImageSpec(), rig.keys.loader))
    key = silicon.keys.content().slots[KeySlot.LOADER_KEY]
    assert not isinstance(key, bytes)
    numbers = key.public_key().public_numbers()
    point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    report = rig.start(forge(ImageSpec(), rig.keys.loader))
    assert report.record is not None
    assert point in report.record.certificate


def test_the_puppet_does_what_its_table_says(rig: Rig) -> None:
    rows = [
        store("write", 0x2142_8000, 0x1234_5678),
        load("read it", 0x2142_8000),
        load("read nothing", 0x3000_0000),
        command("hash it", Command.SHA256, 0x2142_8000, 4, 0x2142_9000),
        load("read the digest", 0x2142_9000),
    ]
    rig.insert()
    assert rig.boot(puppet(rows, rig.keys.loader)).exit_status == 0
    notes = read_notes(rig.silicon, rows).rows
    digest = hashlib.sha256((0x1234_5678).to_bytes(4, "little")).digest()
    assert [note.faults for note in notes] == [0, 0, 1, 0, 0]
    assert notes[1].value == 0x1234_5678
    assert notes[4].value == int.from_bytes(digest[:4], "little")


def test_a_drawer_keeps_chips_without_supply(rig: Rig) -> None:
    for snapshot in (rig.victims.product, rig.victims.other):
        assert snapshot.keys.slots == {}
        assert not any(snapshot.control)
        silicon = Silicon(snapshot.seed)
        silicon.restore(snapshot)
        assert silicon.flash.read(0, 0x2_0000) == b"\xff" * 0x2_0000


def test_an_attack_that_could_try_nothing_does_not_count_as_refused() -> None:
    idle = Attack("idle", (Holds.FLASH,), "Nothing.", lambda *_: iter(()))
    assert AttackResult(idle, (), 0.0).verdict is Verdict.ESCAPED


def test_effort_picks_every_point_or_a_share_with_the_last_one() -> None:
    assert list(Effort.FULL.pick(range(10), 4)) == list(range(10))
    assert list(Effort.QUICK.pick(range(10), 4)) == [0, 4, 8, 9]
    assert list(Effort.QUICK.pick(range(3), 4)) == [0, 1, 2]


def test_an_attack_that_nobody_knows_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ChipAttackUnknown) as caught:
        choose(["clone", "magic"])
    assert caught.value.evidence["names"] == ["magic"]
    assert "clone" in caught.value.evidence["known"]


def test_results_tell_each_attempt_that_escaped() -> None:
    attack = CATALOGUE[0]
    attempts = (Attempt("a", Verdict.REFUSED, "E_X"), Attempt("b", Verdict.ESCAPED, "booted"))
    document = AttackResult(attack, attempts, 1.0).as_dict()
    assert document["escaped"] == [{"what": "b", "verdict": "escaped", "seen": "booted"}]
    assert document["seen"] == {"E_X": 1, "booted": 1}
    assert document["verdict"] == "escaped"


def test_the_command_carries_attacks_out_and_says_so() -> None:
    command_line = [sys.executable, "-m", "fuseline", "lab", "chip-attacks", "--json"]
    done = subprocess.run(
        [*command_line, "--only", "clone", "--only", "keys"], capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert [attack["name"] for attack in document["attacks"]] == ["keys", "clone"]
    assert document["escaped"] == []
    assert document["attempts"] > 10


def test_keys_made_from_labels_are_the_same_everywhere() -> None:
    digest = hashlib.sha256(lab_keys().loader.spki + lab_keys().ed25519.spki).hexdigest()
    assert digest == "21bf746e8bae88c0a1f2b566e7763b712eb3b953120d94bd88f04c80caa8121f"
    assert len(stop_payload()) == 36
