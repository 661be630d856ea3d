"""Attestation: nonces, appraisal against reference values, signed results."""
