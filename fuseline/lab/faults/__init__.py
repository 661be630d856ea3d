"""Fault campaigns against the boot ROM: skipped instructions, flipped bits, zeroed loads."""
