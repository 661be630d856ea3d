"""The chip's physics: fuses, PUF, flash, crypto block, key manager, and the two engines that run machine code."""
