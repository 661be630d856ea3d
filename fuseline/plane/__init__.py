"""The cloud: identity registry, OTA orchestration, attestation verifier."""
