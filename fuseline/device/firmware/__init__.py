"""Firmware slots and the loader that verifies, measures and picks one."""
