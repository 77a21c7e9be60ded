"""Tokens: which are good, what they allow, and how they are made and revoked."""
