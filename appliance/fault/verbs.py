"""The faults: what each of them runs, and what undoes it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.config import Config
from appliance.config_drill import DrillKind
from appliance.drill.device import device_of

COLLECTOR: Final = "tandem-collector.service"
KEEPALIVED: Final = "keepalived.service"
HAPROXY: Final = "haproxy.service"
_TABLE: Final = "tandem_fault"
_SECONDS: Final = 10.0
"""For a command; all of them are quick."""


class FaultFailed(Exception):  # noqa: N818 - says what happened
    """A command did not do what it should; the message says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program, its arguments, and what it reads."""

    words: tuple[str, ...]
    text: str = ""

    def run(self) -> None:
        """Run it; raises :class:`FaultFailed`."""
        try:
            done = subprocess.run(
                self.words, input=self.text, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise FaultFailed(f"{self.words[0]}: not within {_SECONDS:g} s") from None
        except OSError as error:
            raise FaultFailed(f"{self.words[0]}: {error.strerror}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise FaultFailed(f"{' '.join(self.words)}: {said}")


@dataclass(frozen=True, slots=True)
class Verb:
    """One fault."""

    do: Command
    undo: Command | None
    """Does no harm where there is nothing to undo."""


def _systemctl(*words: str) -> Command:
    return Command(("systemctl", *words))


def verbs(config: Config) -> dict[DrillKind, Verb]:
    """The faults that this node's configuration allows; raises ValueError."""
    found: dict[DrillKind, Verb] = {
        "collector-kill": Verb(
            _systemctl("kill", "--signal=SIGKILL", COLLECTOR), _systemctl("start", COLLECTOR)
        ),
        "collector-hang": Verb(
            _systemctl("kill", "--signal=SIGSTOP", COLLECTOR),
            _systemctl("kill", "--signal=SIGCONT", COLLECTOR),
        ),
        # not waiting: the moment of the fault is to be known
        "keepalived-stop": Verb(
            _systemctl("stop", "--no-block", KEEPALIVED), _systemctl("start", KEEPALIVED)
        ),
        "haproxy-stop": Verb(
            _systemctl("stop", "--no-block", HAPROXY), _systemctl("start", HAPROXY)
        ),
    }
    address = config.cluster.address_of(config.node.name) if config.cluster else None
    if address is not None:
        found["partition"] = _partition(device_of(str(address)))
    if config.drill.fence is not None:
        found["node-kill"] = Verb(_fence(config.drill.fence, config.node.name), None)
    return {kind: verb for kind, verb in found.items() if kind in config.drill.kinds}


def _fence(program: Path, node: str) -> Command:
    return Command((str(program), node))


def _partition(device: str) -> Verb:
    """Every frame that comes in or goes out by ``device`` is dropped, those of interfaces on top of
    it, such as keepalived's, included. The link stays up, as when a switch is broken.
    """
    hook = 'type filter hook {} device "' + device + '" priority -500; policy drop;'
    chains = "".join(f"chain {way} {{ {hook.format(way)} }}\n" for way in ("ingress", "egress"))
    table = f"table netdev {_TABLE}"
    # declared first, so that there is something to delete
    clear = f"{table}\ndelete {table}\n"
    return Verb(
        Command(("nft", "-f", "-"), f"{clear}{table} {{\n{chains}}}\n"),
        Command(("nft", "-f", "-"), clear),
    )
