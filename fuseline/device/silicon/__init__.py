"""The chip's physics: fuses, PUF, flash, crypto block, key manager, and the two engines for machine code."""
