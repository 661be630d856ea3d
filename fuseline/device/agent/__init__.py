"""What runs on an embedded-Linux device: enrol, attest, update."""
