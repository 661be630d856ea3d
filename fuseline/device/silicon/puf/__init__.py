"""The SRAM PUF: cells that power up as only this chip's do, and the secret that is extracted from them."""

from __future__ import annotations

from fuseline.device.silicon.puf.array import Puf
from fuseline.device.silicon.puf.cells import Conditions
from fuseline.device.silicon.puf.extractor import Enrolment, Reconstruction
from fuseline.device.silicon.puf.helper import HELPER_SIZE
from fuseline.errors import PufFailure

__all__ = ["HELPER_SIZE", "Conditions", "Enrolment", "Puf", "PufFailure", "Reconstruction"]
