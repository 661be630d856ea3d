"""Studies of the SRAM PUF, and attacks on its helper data."""
