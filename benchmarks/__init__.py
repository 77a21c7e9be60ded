"""Measures Tandem and other collectors on the same datagrams, in one run; asserts nothing."""
