"""The memory protection unit, PMSAv7 with 8 regions (Armv7-M B3.5).

Two parties ask for the same rules: the engine, which checks every access of an instruction itself, and this
model, which the processor asks about the accesses that it makes without one (stacking and unstacking).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fuseline.device.silicon.cortexm.bus import Access

REGIONS: Final = 8
ENABLE: Final = 1
HFNMIENA: Final = 2
PRIVDEFENA: Final = 4

_GRAIN = 32  # no edge of a region or subregion stands between
_SMALLEST_SIZE_FIELD = 4  # 32 octets (B3.5.9, RASR.SIZE)
_SUBREGION_SIZE_FIELD = 7  # regions of 256 octets and more have 8 subregions (B3.5.3)
_PPB = range(0xE000_0000, 0xE010_0000)
_SYSTEM_SPACE = 0xE000_0000

# RASR.AP: what privileged and unprivileged code may do (Armv7-M table B3-15). 4 is reserved.
_AP: dict[int, tuple[Access, Access]] = {
    0: (Access.NONE, Access.NONE),
    1: (Access.RW, Access.NONE),
    2: (Access.RW, Access.R),
    3: (Access.RW, Access.RW),
    4: (Access.NONE, Access.NONE),
    5: (Access.R, Access.NONE),
    6: (Access.R, Access.R),
    7: (Access.R, Access.R),
}


def default_access(address: int) -> Access:
    """Return what the default memory map allows (Armv7-M table B3-1): devices are never executed."""
    executable = address < 0x4000_0000 or 0x6000_0000 <= address < 0xA000_0000
    return Access.RWX if executable else Access.RW


@dataclass(slots=True)
class Mpu:
    """Registers of the MPU.

    Attributes:
        control: MPU_CTRL.
        number: MPU_RNR.
        base: Base address of each region (RBAR without VALID and REGION).
        attributes: RASR of each region.
        verdicts: What `allowed` found since the protection last changed.
    """

    control: int = 0
    number: int = 0
    base: list[int] = field(default_factory=lambda: [0] * REGIONS)
    attributes: list[int] = field(default_factory=lambda: [0] * REGIONS)
    verdicts: dict[tuple[int, bool], Access] = field(default_factory=dict, compare=False, repr=False)

    def copy(self) -> Mpu:
        """Return an equal one that shares nothing."""
        return Mpu(self.control, self.number, list(self.base), list(self.attributes))

    @property
    def rbar(self) -> int:
        """MPU_RBAR as read."""
        return self.base[self.number] | self.number

    @property
    def rasr(self) -> int:
        """MPU_RASR as read."""
        return self.attributes[self.number]

    def write_rbar(self, value: int) -> bool:
        """Write MPU_RBAR; returns whether the protection changed."""
        if value & 0x10:
            if value & 0xF >= REGIONS:
                return False
            self.number = value & 0xF
        base = value & ~0x1F
        changed = self.base[self.number] != base
        self.base[self.number] = base
        self.verdicts.clear()
        return changed and bool(self.attributes[self.number] & 1)

    def write_rasr(self, value: int) -> bool:
        """Write MPU_RASR; returns whether the protection changed."""
        value &= 0x173F_FF3F
        changed = self.attributes[self.number] != value
        self.attributes[self.number] = value
        self.verdicts.clear()
        return changed

    def write_control(self, value: int) -> None:
        """Write MPU_CTRL."""
        self.control = value & (ENABLE | HFNMIENA | PRIVDEFENA)
        self.verdicts.clear()

    def enabled(self, negative_priority: bool) -> bool:
        """Return whether the regions hold; `negative_priority`: HardFault or NMI is active."""
        return bool(self.control & ENABLE) and (not negative_priority or bool(self.control & HFNMIENA))

    def allowed(self, address: int, *, privileged: bool, negative_priority: bool = False) -> Access:
        """Return what may be done with the octet at `address` (Armv7-M B3.5.4, ValidateAddress())."""
        if not self.enabled(negative_priority) or address in _PPB:
            return default_access(address)
        key = (address // _GRAIN, privileged)
        verdict = self.verdicts.get(key)
        if verdict is None:
            verdict = self.verdicts[key] = self._decide(address, privileged)
        return verdict

    def _decide(self, address: int, privileged: bool) -> Access:
        for region in reversed(range(REGIONS)):
            if self._matches(region, address):
                return self._region_access(region, address, privileged)
        if privileged and self.control & PRIVDEFENA:
            return default_access(address)
        return Access.NONE

    def usable(self, region: int) -> bool:
        """Return whether a region is enabled and has a size."""
        attributes = self.attributes[region]
        return bool(attributes & 1) and (attributes >> 1 & 0x1F) >= _SMALLEST_SIZE_FIELD

    def _matches(self, region: int, address: int) -> bool:
        if not self.usable(region):
            return False
        attributes = self.attributes[region]
        size_field = attributes >> 1 & 0x1F
        size = 2 << size_field
        offset = address - self.base[region]
        # A base that is no multiple of the size is unpredictable (B3.5.8); as in QEMU, it never hits.
        if self.base[region] % size or not 0 <= offset < size:
            return False
        if size_field < _SUBREGION_SIZE_FIELD:
            return True
        return not attributes >> 8 >> (offset * 8 // size) & 1

    def _region_access(self, region: int, address: int, privileged: bool) -> Access:
        attributes = self.attributes[region]
        access = _AP[attributes >> 24 & 7][0 if privileged else 1]
        never_execute = bool(attributes >> 28 & 1) or address >= _SYSTEM_SPACE
        if access & Access.R and not never_execute:
            return access | Access.X
        return access
