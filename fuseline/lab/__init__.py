"""Rehearsals: the development factory, the fleet on this machine, the journey."""
