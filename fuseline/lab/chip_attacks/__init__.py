"""Attacks against the emulated chip, by what the attacker holds."""
