"""Releases, rollouts and the hawkBit DDI protocol that devices poll."""
