"""What stands behind HAProxy in its test: an API and a collector that remember their callers."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_HEADER = struct.Struct(">12sBBH")


class Api(ThreadingHTTPServer):
    """Answers every request with ``name``; over mutual TLS if ``tls`` names the folder of keys."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], name: str, tls: Path | None = None) -> None:
        self.name = name
        self.headers: list[dict[str, str]] = []
        super().__init__(address, _ApiHandler)
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(tls / f"{name}.pem", tls / f"{name}.key")
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _ApiHandler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        if self.path != "/livez":
            self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        body = self.server.name.encode()
        with contextlib.suppress(OSError):  # a check may be cut short
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


class Collector(socketserver.ThreadingTCPServer):
    """Echoes what follows a PROXY v2 header, and keeps the address in it."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        self.exporters: list[str] = []
        self.errors: list[str] = []
        self.sessions: list[socket.socket] = []
        super().__init__(address, _CollectorHandler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """End as a process does: the kernel closes all of its sockets."""
        self.shutdown()
        self.server_close()
        for session in self.sessions:
            with contextlib.suppress(OSError):
                session.shutdown(socket.SHUT_RDWR)


class _CollectorHandler(socketserver.BaseRequestHandler):
    server: Collector

    def handle(self) -> None:
        head = self.request.recv(_HEADER.size, socket.MSG_WAITALL)
        if len(head) < _HEADER.size:
            return  # a check that was cut short
        signature, command, family, length = _HEADER.unpack(head)
        rest = self.request.recv(length, socket.MSG_WAITALL) if length else b""
        if signature != SIGNATURE or command >> 4 != 2:
            self.server.errors.append(f"no PROXY v2 header: {head!r}")
            return
        if command & 0xF == 0:
            return  # LOCAL: a health check
        if family == 0x11:
            self.server.exporters.append(socket.inet_ntop(socket.AF_INET, rest[:4]))
        elif family == 0x21:
            self.server.exporters.append(socket.inet_ntop(socket.AF_INET6, rest[:16]))
        self.server.sessions.append(self.request)
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


def authority(directory: Path, name: str) -> None:
    _openssl(directory, name, "-subj", f"/CN={name}", "-addext", "keyUsage=keyCertSign")


def leaf(directory: Path, name: str, ca: str, usage: str, names: str) -> None:
    _openssl(
        directory, name, "-subj", f"/CN={name}", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
        "-addext", f"extendedKeyUsage={usage}", "-addext", f"subjectAltName={names}",
        "-addext", "basicConstraints=critical,CA:FALSE",
    )  # fmt: skip


def _openssl(directory: Path, name: str, *args: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem", *args],
        cwd=directory, check=True, capture_output=True, timeout=30,
    )  # fmt: skip
