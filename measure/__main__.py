"""``python -m measure COMMAND``: send, judge, report, iperf and plot."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "send": "send a load of numbered flow records",
    "judge": "say what became of each record of a load",
    "event": "do something to the lab's cluster under load, and judge",
    "report": "put the results of repeated runs into a table",
    "benchmark": "measure throughput and load while the lab's VIP moves",
    "iperf": "measure throughput with iperf3, with an event meanwhile",
    "plot": "write a report with plots of throughput and load",
}


def main() -> int:
    """Run one command; its module is imported alone, because the sender has to start at once."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        lines = [f"  {name:<8} {what}" for name, what in COMMANDS.items()]
        text = "\n".join(["usage: python -m measure COMMAND [--help]", *lines])
        print(text, file=sys.stdout if command == "--help" else sys.stderr)
        return 0 if command == "--help" else 2
    module = importlib.import_module(f"measure.{command}")
    return int(module.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
