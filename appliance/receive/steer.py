"""Steering within a SO_REUSEPORT group: a classic BPF program picks the socket by exporter.

The kernel's own choice hashes the 4-tuple, so that an exporter that changes its source port (or
has several line cards) spreads over all sockets, and its templates arrive behind its data. This
program hashes the source address only (socket(7), SO_ATTACH_REUSEPORT_CBPF).
"""

from __future__ import annotations

import ctypes
import socket
import struct

SO_ATTACH_REUSEPORT_CBPF = 51

_LD_W_ABS = 0x20
_ST, _LDX_MEM = 0x02, 0x61
_JEQ, _RET_A = 0x15, 0x16
_MUL_K, _RSH_K, _MOD_K, _XOR_X = 0x24, 0x74, 0x94, 0xAC
_PROTOCOL = 0xFFFFF000  # SKF_AD_OFF + SKF_AD_PROTOCOL
_NETWORK = 0xFFF00000  # SKF_NET_OFF: the IP header, wherever the data pointer is
_IPV4 = 0x0800
_GOLDEN = 0x9E3779B1

Instruction = tuple[int, int, int, int]


def program(sockets: int) -> list[Instruction]:
    """The filter for ``sockets`` sockets: (code, jt, jf, k) each; returns the socket's index."""
    finish: list[Instruction] = [
        (_MUL_K, 0, 0, _GOLDEN),
        (_RSH_K, 0, 0, 16),
        (_MOD_K, 0, 0, sockets),
        (_RET_A, 0, 0, 0),
    ]
    v4: list[Instruction] = [(_LD_W_ABS, 0, 0, _NETWORK + 12)]
    v6: list[Instruction] = [(_LD_W_ABS, 0, 0, _NETWORK + 8)]
    for word in (12, 16, 20):
        v6 += [
            (_ST, 0, 0, 0),
            (_LD_W_ABS, 0, 0, _NETWORK + word),
            (_LDX_MEM, 0, 0, 0),
            (_XOR_X, 0, 0, 0),
        ]
    return [
        (_LD_W_ABS, 0, 0, _PROTOCOL),
        (_JEQ, 0, len(v4) + len(finish), _IPV4),
        *v4,
        *finish,
        *v6,
        *finish,
    ]


def index_of(address: bytes, sockets: int) -> int:
    """What :func:`program` answers for a 4- or 16-byte source address."""
    words = struct.unpack(f">{len(address) // 4}I", address)
    mixed = 0
    for word in words:
        mixed ^= word
    return ((mixed * _GOLDEN & 0xFFFFFFFF) >> 16) % sockets


def attach(sock: socket.socket, sockets: int) -> None:
    """Steer the reuseport group of ``sock``, which has ``sockets`` members in order of bind."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program(sockets))
    buffer = ctypes.create_string_buffer(code)
    fprog = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, fprog)
