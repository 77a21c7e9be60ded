"""Decoding of captured packet headers: sFlow's raw headers, IPFIX's frame sections."""

from appliance.decode.packet.decoder import decode_packets

__all__ = ["decode_packets"]
