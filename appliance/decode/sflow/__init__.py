"""sFlow version 5: flow, counter and discard samples."""

from appliance.decode.sflow.datagram import decode

__all__ = ["decode"]
