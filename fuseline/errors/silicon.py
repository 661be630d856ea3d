"""The emulated chip: its physics, its engines, its folder, its provisioning."""

from __future__ import annotations

from fuseline.errors.base import FuselineError


class SiliconError(FuselineError):
    """Something asked of the chip cannot be done."""

    code = "E_CHIP"
    hint = "Look at the chip with `fuseline chip show DIR`."
