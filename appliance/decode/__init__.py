"""From datagrams to flow records, counters and options: bytes and state in, columns out.

No socket, clock or log in here. Protocols are found by version number (NetFlow 1, 5, 7 and 9, IPFIX
10, sFlow 5); each decodes all of its datagrams of a batch at once.
"""

from __future__ import annotations

from appliance.decode.context import DecodeError, OptionsRecord, Status
from appliance.decode.decoder import Decoded, Decoder
from appliance.decode.limits import Limits

__all__ = ["DecodeError", "Decoded", "Decoder", "Limits", "OptionsRecord", "Status"]
