"""Measurements: one entry per claim, with the peer or the limit measured beside it."""
