"""A real Prometheus on loopback: each second, it scrapes samples of two nodes, and HAProxy."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jinja2
import yaml

from tests.integration.harness import free_port, wait_for
from tests.monitoring import samples
from tests.monitoring.queries import get

ROLE = Path(__file__).parents[2] / "roles/monitoring"
RULES = sorted((ROLE / "files/rules").glob("*.rules.yml"))


def defaults() -> dict[str, Any]:
    """The role's defaults, as its file has them."""
    found: dict[str, Any] = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    return found


def template(name: str, **values: Any) -> str:
    """A template of the role, with its defaults and ``values``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        trim_blocks=True,  # as Ansible does
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(name).render(
        {"ansible_managed": "test", **defaults(), **values}
    )


class Prometheus:
    """Runs while its context does; ``url`` is its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pages = {f"/{n}/keepalived": samples.keepalived(n) for n in samples.NODES}
        for node in samples.NODES:
            (folder / node).mkdir()
            self._pages[f"/{node}/tandem"] = samples.tandem(node, folder / node)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._pages))
        self._haproxy_port = free_port()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._listen = f"127.0.0.1:{port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Prometheus:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self) -> None:
        haproxy = self._folder / "haproxy.cfg"
        haproxy.write_text(samples.HAPROXY.format(port=self._haproxy_port, ipfix=free_port()))
        config = self._folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config()))
        thresholds = self._folder / "thresholds.rules.yml"
        thresholds.write_text(template("thresholds.rules.yml.j2"))
        self._run("haproxy", "-db", "-f", str(haproxy))
        self._run(
            *("prometheus", f"--config.file={config}"),
            *(f"--web.listen-address={self._listen}", f"--storage.tsdb.path={self._folder}/tsdb"),
        )
        wait_for(self._scraped, 30, "Prometheus has scraped all twice")

    def _run(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))

    def _config(self) -> dict[str, Any]:
        address = f"127.0.0.1:{self._server.server_port}"
        jobs = [
            {
                "job_name": job,
                "static_configs": [
                    {
                        "targets": [address],
                        "labels": {"instance": node, "__metrics_path__": f"/{node}/{job}"},
                    }
                    for node in samples.NODES
                ],
            }
            for job in ("tandem", "keepalived")
        ]
        haproxy = {"targets": [f"127.0.0.1:{self._haproxy_port}"], "labels": {"instance": "n1"}}
        jobs.append({"job_name": "haproxy", "static_configs": [haproxy]})
        return {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": [*map(str, RULES), str(self._folder / "thresholds.rules.yml")],
            "scrape_configs": jobs,
        }

    def _scraped(self) -> bool:
        dead = [process.args for process in self._processes if process.poll() is not None]
        assert not dead, f"see the logs in {self._folder}: {dead}"
        try:
            found = get(
                self.url, "query", query="min(count_over_time(up[1m])) >= 3 and min(up) == 1"
            )
        except (OSError, ValueError):  # it starts
            return False
        return bool(found["result"])

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(20)
        self._server.shutdown()
        self._server.server_close()


def _handler(pages: Mapping[str, str]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
