"""Flow record formats of sFlow: what each says, as columns.

Sources: sFlow version 5 (section 5), and the extension structures that sflow.org publishes: 802.11,
tunnels, discards, host applications. Formats are enterprise 0 unless said otherwise. The raw packet
header (format 1) is in :mod:`.flows`.
"""

from __future__ import annotations

from appliance.decode.sflow.layout import Kind, Layout

RAW_HEADER = 1
SAMPLED_ETHERNET = 2
SAMPLED_IP = {3: 4, 4: 6}
"""Version of IP by format."""

_ETHERNET: tuple[tuple[str, Kind], ...] = (
    ("frame_length", "u32"),
    ("src_mac", "mac"),
    ("dst_mac", "mac"),
    ("ethertype", "u32"),
)
_PORTS: tuple[tuple[str, Kind], ...] = (
    ("src_port", "u32"),
    ("dst_port", "u32"),
    ("tcp_flags", "u32"),
    ("tos", "u32"),
)


def _ip(address: Kind, prefix: str = "") -> Layout:
    head: tuple[tuple[str, Kind], ...] = (
        ("ip_len", "u32"),
        ("protocol", "u32"),
        ("src_addr", address),
        ("dst_addr", address),
    )
    return Layout.of(*((prefix + name, kind) for name, kind in (*head, *_PORTS)))


def _ethernet(prefix: str) -> Layout:
    return Layout.of(*((prefix + name, kind) for name, kind in _ETHERNET))


def _socket(address: Kind, prefix: str) -> Layout:
    return Layout.of(
        (prefix + "protocol", "u32"),
        (prefix + "local_addr", address),
        (prefix + "remote_addr", address),
        (prefix + "local_port", "u32"),
        (prefix + "remote_port", "u32"),
    )


FLOW_FORMATS: dict[int, Layout] = {
    SAMPLED_ETHERNET: _ethernet(""),
    3: _ip("ip4"),
    4: _ip("ip6"),
    1001: Layout.of(
        ("ext_vlan_in", "u32"),
        ("ext_priority_in", "u32"),
        ("ext_vlan_out", "u32"),
        ("ext_priority_out", "u32"),
    ),
    1002: Layout.of(("next_hop", "address"), ("src_mask", "u32"), ("dst_mask", "u32")),
    1003: Layout.of(
        ("bgp_next_hop", "address"),
        ("router_as", "u32"),
        ("src_as", "u32"),
        ("src_peer_as", "u32"),
        ("as_path", "path"),
        ("communities", "list"),
        ("local_pref", "u32"),
    ),
    1004: Layout.of(
        ("src_user_charset", "u32"),
        ("src_user", "string"),
        ("dst_user_charset", "u32"),
        ("dst_user", "string"),
    ),
    1005: Layout.of(("url_direction", "u32"), ("url", "string"), ("url_host", "string")),
    1006: Layout.of(
        ("mpls_next_hop", "address"), ("mpls_in_stack", "list"), ("mpls_out_stack", "list")
    ),
    1007: Layout.of(("post_nat_src_addr", "address"), ("post_nat_dst_addr", "address")),
    1008: Layout.of(
        ("mpls_tunnel_name", "string"), ("mpls_tunnel_id", "u32"), ("mpls_tunnel_cos", "u32")
    ),
    1009: Layout.of(
        ("mpls_vc_name", "string"), ("mpls_vll_vc_id", "u32"), ("mpls_vc_label_cos", "u32")
    ),
    1010: Layout.of(("mpls_ftn", "string"), ("mpls_ftn_mask", "u32")),
    1011: Layout.of(("mpls_ldp_fec_mask", "u32")),
    1012: Layout.of(("vlan_stack", "list")),
    1014: Layout.of(
        ("wifi_rx_ssid", "string"),
        ("wifi_rx_bssid", "mac"),
        ("wifi_rx_version", "u32"),
        ("wifi_rx_channel", "u32"),
        ("wifi_rx_speed", "u64"),
        ("wifi_rx_rsni", "u32"),
        ("wifi_rx_rcpi", "u32"),
        ("wifi_rx_duration_us", "u32"),
    ),
    1015: Layout.of(
        ("wifi_tx_ssid", "string"),
        ("wifi_tx_bssid", "mac"),
        ("wifi_tx_version", "u32"),
        ("wifi_tx_transmissions", "u32"),
        ("wifi_tx_duration_us", "u32"),
        ("wifi_tx_retransmission_us", "u32"),
        ("wifi_tx_channel", "u32"),
        ("wifi_tx_speed", "u64"),
        ("wifi_tx_power_mw", "u32"),
    ),
    1020: Layout.of(("post_nat_src_port", "u32"), ("post_nat_dst_port", "u32")),
    1021: _ethernet("tunnel_out_"),
    1022: _ethernet("tunnel_in_"),
    1023: _ip("ip4", "tunnel_out_"),
    1024: _ip("ip4", "tunnel_in_"),
    1025: _ip("ip6", "tunnel_out_"),
    1026: _ip("ip6", "tunnel_in_"),
    1027: Layout.of(("decapsulate_out_offset", "u32")),
    1028: Layout.of(("decapsulate_in_offset", "u32")),
    1029: Layout.of(("vni_out", "u32")),
    1030: Layout.of(("vni_in", "u32")),
    1036: Layout.of(("out_queue", "u32")),
    1037: Layout.of(("acl_number", "u32"), ("acl_name", "string"), ("acl_direction", "u32")),
    1038: Layout.of(("drop_function", "string")),
    1039: Layout.of(("transit_delay_ns", "u32")),
    1040: Layout.of(("queue_depth", "u32")),
    1041: Layout.of(("trap_group", "string"), ("trap_name", "string")),
    1042: Layout.of(("linux_drop_reason", "string")),
    2100: _socket("ip4", "socket_"),
    2101: _socket("ip6", "socket_"),
    2102: _socket("ip4", "proxy_"),
    2103: _socket("ip6", "proxy_"),
    2202: Layout.of(
        ("app_name", "string"),
        ("app_operation", "string"),
        ("app_attributes", "string"),
        ("app_status_text", "string"),
        ("app_request_bytes", "u64"),
        ("app_response_bytes", "u64"),
        ("app_duration_us", "u32"),
        ("app_status", "u32"),
    ),
    2204: Layout.of(("app_initiator", "string")),
    2205: Layout.of(("app_target", "string")),
    2206: Layout.of(
        ("http_method", "u32"),
        ("http_version", "u32"),
        ("http_uri", "string"),
        ("http_host", "string"),
        ("http_referer", "string"),
        ("http_user_agent", "string"),
        ("http_x_forwarded_for", "string"),
        ("http_auth_user", "string"),
        ("http_mime_type", "string"),
        ("http_request_bytes", "u64"),
        ("http_response_bytes", "u64"),
        ("http_duration_us", "u32"),
        ("http_status", "u32"),
    ),
}
"""Layouts by format number."""

PACKED_ETHERNET = Layout.of(
    ("frame_length", "u32"), ("src_mac", "mac6"), ("dst_mac", "mac6"), ("ethertype", "u32")
)
PACKED_ETHERNET_SIZE = 20
"""Some Huawei switches send format 2 without the padding of the MAC addresses."""
