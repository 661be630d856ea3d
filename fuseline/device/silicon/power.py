"""Power: what it takes away, and when.

Every operation that moves charge in a cell that keeps it (a fuse blown, a flash word programmed, a block
erased) asks `Power` first. A rehearsal sets the operation at which the supply fails; that operation is then
left half done, as physics leaves it, and `PowerLost` ends the run.
"""

from __future__ import annotations

from dataclasses import dataclass


class PowerLost(BaseException):
    """The supply failed in the middle of an operation.

    Like `KeyboardInterrupt` it is not an error of the program: nothing on the chip can catch it.
    """


@dataclass(slots=True)
class Power:
    """Counts non-volatile operations, and fails at a chosen one.

    Attributes:
        operations: Operations begun so far.
        cut_at: Number of the operation (from 1) that is left half done; None for a steady supply.
    """

    operations: int = 0
    cut_at: int | None = None

    def begin(self) -> bool:
        """Begin an operation; returns whether the supply fails in the middle of it."""
        self.operations += 1
        return self.operations == self.cut_at
