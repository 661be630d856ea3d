"""Identity: the operational CA, enrolment, certificates and their revocation."""
