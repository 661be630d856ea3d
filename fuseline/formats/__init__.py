"""Bytes to typed values and back. No I/O, no clock, no key store."""
