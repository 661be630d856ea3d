"""What is read from Unicorn's own structures is found by experiment, and refused where it is not found."""

from __future__ import annotations

import pytest
from unicorn import arm_const as arm

from fuseline.device.silicon.cortexm import unicorn_layout
from fuseline.errors import EngineUnsupported


def test_the_layout_is_found_and_the_same_every_time() -> None:
    assert unicorn_layout.layout() == unicorn_layout._examine()


def test_a_context_of_another_shape_is_refused() -> None:
    with pytest.raises(EngineUnsupported, match="the MPU's regions"):
        unicorn_layout._check_tail(bytes(4436))


def test_an_ambiguous_finding_is_refused() -> None:
    with pytest.raises(EngineUnsupported) as refused:
        unicorn_layout._only({4, 8}, "its instruction counter")
    assert refused.value.code == "E_CHIP_ENGINE_UNSUPPORTED"


def test_the_model_is_a_cortex_m4_and_no_m33() -> None:
    engine = unicorn_layout.Engine()
    engine.mem_map(0, 0x1000)
    # msr psplim, r0; mrs r1, psplim: registers that only Armv8-M has
    engine.mem_write(0, bytes.fromhex("80f30b88eff30b81"))
    engine.reg_write(arm.UC_ARM_REG_R0, 0x1000)
    assert engine.start(1, 2) == 0
    assert engine.reg_read(arm.UC_ARM_REG_R1) == 0
