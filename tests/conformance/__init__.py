"""Conformance: captures of real exporters against records that other decoders made of them.

The captures are not part of this repository. They lie in ``../shared/corpus``, or where the
variable ``TANDEM_CORPUS`` or the argument of ``python -m tests.conformance`` says; its layout is
described in ``corpus.py``.
"""
