"""Peripherals of Arm's MPS2 boards, with the registers that QEMU's mps2-an386 has."""
