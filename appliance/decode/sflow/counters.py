"""Counter record formats of sFlow: which columns of the counter table each one fills.

Sources: sFlow version 5 (section 5), and the structures that sflow.org publishes for hosts (host
structures), virtual machines, HTTP, LACP, 802.11 and port names. All are enterprise 0. Values are
as sent: a counter that the agent does not have is all ones. Percentages are hundredths.
"""

from __future__ import annotations

from appliance.decode.sflow.layout import Layout

COUNTER_FORMATS: dict[int, Layout] = {
    1: Layout.of(
        ("if_index", "u32"),
        ("if_type", "u32"),
        ("if_speed", "u64"),
        ("if_direction", "u32"),
        ("if_status", "u32"),
        ("if_in_octets", "u64"),
        ("if_in_ucast", "u32"),
        ("if_in_mcast", "u32"),
        ("if_in_bcast", "u32"),
        ("if_in_discards", "u32"),
        ("if_in_errors", "u32"),
        ("if_in_unknown", "u32"),
        ("if_out_octets", "u64"),
        ("if_out_ucast", "u32"),
        ("if_out_mcast", "u32"),
        ("if_out_bcast", "u32"),
        ("if_out_discards", "u32"),
        ("if_out_errors", "u32"),
        ("if_promiscuous", "u32"),
    ),
    2: Layout.words(
        "dot3_",
        "alignment_errors fcs_errors single_collision multiple_collision sqe_test_errors "
        "deferred_transmissions late_collisions excessive_collisions mac_transmit_errors "
        "carrier_sense_errors frame_too_longs mac_receive_errors symbol_errors",
    ),
    3: Layout.words(
        "dot5_",
        "line_errors burst_errors ac_errors abort_trans_errors internal_errors lost_frame_errors "
        "receive_congestions frame_copied_errors token_errors soft_errors hard_errors signal_loss "
        "transmit_beacons recoverys lobe_wires removes singles freq_errors",
    ),
    4: Layout.of(
        ("dot12_in_high_frames", "u32"),
        ("dot12_in_high_octets", "u64"),
        ("dot12_in_norm_frames", "u32"),
        ("dot12_in_norm_octets", "u64"),
        ("dot12_in_ipm_errors", "u32"),
        ("dot12_in_oversize_errors", "u32"),
        ("dot12_in_data_errors", "u32"),
        ("dot12_in_null_addressed", "u32"),
        ("dot12_out_high_frames", "u32"),
        ("dot12_out_high_octets", "u64"),
        ("dot12_trainings", "u32"),
        ("dot12_hc_in_high_octets", "u64"),
        ("dot12_hc_in_norm_octets", "u64"),
        ("dot12_hc_out_high_octets", "u64"),
    ),
    5: Layout.of(
        ("vlan_id", "u32"),
        ("vlan_octets", "u64"),
        ("vlan_ucast", "u32"),
        ("vlan_mcast", "u32"),
        ("vlan_bcast", "u32"),
        ("vlan_discards", "u32"),
    ),
    6: Layout.words(
        "wifi_",
        "transmitted_fragments multicast_transmitted_frames failed retries multiple_retries "
        "frame_duplicates rts_success rts_failure ack_failure received_fragments "
        "multicast_received_frames fcs_errors transmitted_frames wep_undecryptable "
        "qos_discarded_fragments associated_stations qos_cf_polls_received qos_cf_polls_unused "
        "qos_cf_polls_unusable qos_cf_polls_lost",
    ),
    7: Layout.of(
        ("lacp_actor_system", "mac"),
        ("lacp_partner_system", "mac"),
        ("lacp_aggregator", "u32"),
        # one byte each: administrative and operational state of the actor, then of the partner
        ("lacp_port_state", "u32"),
        ("lacp_lacpdus_rx", "u32"),
        ("lacp_marker_rx", "u32"),
        ("lacp_marker_response_rx", "u32"),
        ("lacp_unknown_rx", "u32"),
        ("lacp_illegal_rx", "u32"),
        ("lacp_lacpdus_tx", "u32"),
        ("lacp_marker_tx", "u32"),
        ("lacp_marker_response_tx", "u32"),
    ),
    1001: Layout.of(
        ("cpu_5s", "u32"),
        ("cpu_1m", "u32"),
        ("cpu_5m", "u32"),
        ("memory_total", "u64"),
        ("memory_free", "u64"),
    ),
    1002: Layout.words("radio_", "elapsed_ms on_channel_ms on_channel_busy_ms"),
    1004: Layout.of(("openflow_datapath", "u64"), ("openflow_port", "u32")),
    1005: Layout.of(("port_name", "string")),
    2000: Layout.of(
        ("host_name", "string"),
        ("host_uuid", "ip6"),
        ("host_machine_type", "u32"),
        ("host_os_name", "u32"),
        ("host_os_release", "string"),
    ),
    2001: Layout.of(("adapters", "adapters")),
    2002: Layout.of(("host_parent_type", "u32"), ("host_parent_index", "u32")),
    2003: Layout.of(
        ("host_load_1m", "f32"),
        ("host_load_5m", "f32"),
        ("host_load_15m", "f32"),
        ("host_processes_running", "u32"),
        ("host_processes", "u32"),
        ("host_cpus", "u32"),
        ("host_cpu_mhz", "u32"),
        ("host_uptime_s", "u32"),
        ("host_cpu_user_ms", "u32"),
        ("host_cpu_nice_ms", "u32"),
        ("host_cpu_system_ms", "u32"),
        ("host_cpu_idle_ms", "u32"),
        ("host_cpu_wio_ms", "u32"),
        ("host_cpu_intr_ms", "u32"),
        ("host_cpu_sintr_ms", "u32"),
        ("host_interrupts", "u32"),
        ("host_contexts", "u32"),
        ("host_cpu_steal_ms", "u32"),
        ("host_cpu_guest_ms", "u32"),
        ("host_cpu_guest_nice_ms", "u32"),
    ),
    2004: Layout.of(
        ("host_mem_total", "u64"),
        ("host_mem_free", "u64"),
        ("host_mem_shared", "u64"),
        ("host_mem_buffers", "u64"),
        ("host_mem_cached", "u64"),
        ("host_swap_total", "u64"),
        ("host_swap_free", "u64"),
        ("host_page_in", "u32"),
        ("host_page_out", "u32"),
        ("host_swap_in", "u32"),
        ("host_swap_out", "u32"),
    ),
    2005: Layout.of(
        ("host_disk_total", "u64"),
        ("host_disk_free", "u64"),
        ("host_part_max_used", "u32"),
        ("host_disk_reads", "u32"),
        ("host_disk_bytes_read", "u64"),
        ("host_disk_read_ms", "u32"),
        ("host_disk_writes", "u32"),
        ("host_disk_bytes_written", "u64"),
        ("host_disk_write_ms", "u32"),
    ),
    2006: Layout.of(
        ("host_in_bytes", "u64"),
        ("host_in_packets", "u32"),
        ("host_in_errors", "u32"),
        ("host_in_drops", "u32"),
        ("host_out_bytes", "u64"),
        ("host_out_packets", "u32"),
        ("host_out_errors", "u32"),
        ("host_out_drops", "u32"),
    ),
    2007: Layout.words(
        "ip_",
        "forwarding default_ttl in_receives in_hdr_errors in_addr_errors forw_datagrams "
        "in_unknown_protos in_discards in_delivers out_requests out_discards out_no_routes "
        "reasm_timeout reasm_reqds reasm_oks reasm_fails frag_oks frag_fails frag_creates",
    ),
    2008: Layout.words(
        "icmp_",
        "in_msgs in_errors in_dest_unreachs in_time_excds in_parm_probs in_src_quenchs "
        "in_redirects in_echos in_echo_reps in_timestamps in_addr_masks in_addr_mask_reps "
        "out_msgs out_errors out_dest_unreachs out_time_excds out_parm_probs out_src_quenchs "
        "out_redirects out_echos out_echo_reps out_timestamps out_timestamp_reps out_addr_masks "
        "out_addr_mask_reps",
    ),
    2009: Layout.words(
        "tcp_",
        "rto_algorithm rto_min rto_max max_conn active_opens passive_opens attempt_fails "
        "estab_resets curr_estab in_segs out_segs retrans_segs in_errs out_rsts in_csum_errs",
    ),
    2010: Layout.words(
        "udp_",
        "in_datagrams no_ports in_errors out_datagrams rcvbuf_errors sndbuf_errors in_csum_errors",
    ),
    2100: Layout.of(
        ("virt_mhz", "u32"),
        ("virt_cpus", "u32"),
        ("virt_memory", "u64"),
        ("virt_memory_free", "u64"),
        ("virt_domains", "u32"),
    ),
    2101: Layout.of(("vm_state", "u32"), ("vm_cpu_ms", "u32"), ("vm_cpus", "u32")),
    2102: Layout.of(("vm_memory", "u64"), ("vm_max_memory", "u64")),
    2103: Layout.of(
        ("vm_disk_capacity", "u64"),
        ("vm_disk_allocation", "u64"),
        ("vm_disk_available", "u64"),
        ("vm_disk_reads", "u32"),
        ("vm_disk_bytes_read", "u64"),
        ("vm_disk_writes", "u32"),
        ("vm_disk_bytes_written", "u64"),
        ("vm_disk_errors", "u32"),
    ),
    2104: Layout.of(
        ("vm_in_bytes", "u64"),
        ("vm_in_packets", "u32"),
        ("vm_in_errors", "u32"),
        ("vm_in_drops", "u32"),
        ("vm_out_bytes", "u64"),
        ("vm_out_packets", "u32"),
        ("vm_out_errors", "u32"),
        ("vm_out_drops", "u32"),
    ),
    2201: Layout.words(
        "http_",
        "method_option method_get method_head method_post method_put method_delete method_trace "
        "method_connect method_other status_1xx status_2xx status_3xx status_4xx status_5xx "
        "status_other",
    ),
    2202: Layout.of(
        ("app_name", "string"),
        ("app_success", "u32"),
        ("app_other", "u32"),
        ("app_timeout", "u32"),
        ("app_internal_error", "u32"),
        ("app_bad_request", "u32"),
        ("app_forbidden", "u32"),
        ("app_too_large", "u32"),
        ("app_not_implemented", "u32"),
        ("app_not_found", "u32"),
        ("app_unavailable", "u32"),
        ("app_unauthorized", "u32"),
    ),
}
"""Layouts by format number."""
