"""Options data and sFlow counters against their golden records.

The golden options data have tshark's names and texts; here is what they mean. A record is compared
by element: where an element occurs twice, as scope and as field, either value will do.
"""

from __future__ import annotations

from datetime import UTC, datetime

from appliance.decode.elements import Registry
from tests.conformance.compare import ABOUT_THE_GOLDEN
from tests.conformance.corpus import Record

ELEMENTS = {
    "appl_desc": 94,
    "appl_name": 96,
    "drop_total_packets": 135,
    "egress_vrfid": 235,
    "exporter_addr": 130,
    "exporter_addr_v6": 131,
    "flow_exporter": 144,
    "flowsexp": 42,
    "if_descr": 83,
    "if_name": 82,
    "ignore_packets": 164,
    "ingress_vrfid": 234,
    "inputint": 10,
    "mp_id": 143,
    "mpls_vpn_rd": 90,
    "notsent_packets": 167,
    "observation_time_seconds": 322,
    "od_id": 149,
    "outputint": 14,
    "packetsexp": 41,
    "permanent_packets": 86,
    "sampler_name": 84,
    "sampling_algorithm": 35,
    "sampling_interval": 34,
    "sampling_packet_interval": 305,
    "sampling_packet_space": 306,
    "sampling_population": 310,
    "sampling_size": 309,
    "selector_algorithm": 304,
    "selector_id": 302,
    "selector_name": 335,
    "sys_init_time": 160,
    "template_id": 145,
    "vrfname": 236,
}
SCOPES = {
    "scope_system": "system",
    "scope_interface": "interface",
    "scope_linecard": "line_card",
    "scope_cache": "cache",
    "scope_template": "template",
}
TSHARK_COUNTERS = {1, 2, 3, 4, 5, 1001}
"""Formats of counter records that tshark 4.0 decodes."""
HEADER = ("exporter", "exporter_port", "version", "observation_domain", "template_id")


def names_of(registry: Registry) -> dict[str, set[str]]:
    """What Tandem may call each of tshark's names."""
    found = {}
    for name, number in ELEMENTS.items():
        element = registry.get(0, number)
        assert element is not None, f"element {number} is not in the registry"
        found[name] = {element.name, element.column}
    return found | {name: {text} for name, text in SCOPES.items()}


NAMES = names_of(Registry.load())


def option_differences(
    golden: Record, decoded: Record
) -> tuple[int, list[tuple[str, object, object]]]:
    """Header fields, and every field of the record whose meaning is known here."""
    compared, different = 0, []
    for key in HEADER:
        if key in golden:
            compared += 1
            if golden[key] != decoded.get(key):
                different.append((key, golden[key], decoded.get(key)))
    values = [*decoded["scope"].items(), *decoded["fields"].items()]
    for name, text in golden["fields"]:
        if name not in NAMES:
            continue
        compared += 1
        got = [v for key, v in values if _stem(key) in NAMES[name]]
        if not any(same(text, value) for value in got):
            different.append((name, text, got))
    return compared, different


def _stem(key: str) -> str:
    """``ingressVRFID_2`` is the second of ``ingressVRFID``."""
    stem, _, number = key.rpartition("_")
    return stem if number.isdigit() else key


def same(text: str, value: object) -> bool:
    """Whether tshark's text and a decoded value are the same."""
    if isinstance(value, int):
        if text.endswith("UTC"):
            # tshark writes nine digits of the second; strptime reads six
            stamp = datetime.strptime(text.removesuffix(" UTC")[:-3], "%b %d, %Y %H:%M:%S.%f")
            ns = round(stamp.replace(tzinfo=UTC).timestamp() * 1000) * 1_000_000
            return value in (ns, ns // 1_000_000, ns // 1_000_000_000)
        if ":" in text:
            return value == int(text.replace(":", ""), 16)
        return text.isdigit() and value == int(text)
    return text == value or text.replace(":", "") == value


def counter_differences(
    golden: Record, decoded: Record
) -> tuple[int, list[tuple[str, object, object]]]:
    """All golden keys.

    tshark 4.0 does not skip a counter record of a format that it does not know, but takes its
    contents for the next record: of ``record_formats``, only what is before that can be right.
    """
    keys = [k for k in golden if k not in ABOUT_THE_GOLDEN]
    different = []
    for key in keys:
        want, got = golden[key], decoded.get(key)
        if key == "record_formats" and isinstance(got, list):
            reliable = next(
                (i for i, f in enumerate(want, 1) if f not in TSHARK_COUNTERS), len(want)
            )
            if reliable < len(want):
                want, got = want[:reliable], got[:reliable]
        if want != got:
            different.append((key, want, got))
    return len(keys), different
