"""Secure elements, and TLS with a key that never leaves them."""
