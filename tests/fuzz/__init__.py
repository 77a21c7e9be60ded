"""Fuzzing of the decoders; see fuzz_decode.py."""
