"""``python -m appliance.fault``: see :mod:`appliance.fault.agent`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from appliance.config import ConfigInvalid, load
from appliance.fault.agent import Agent, serve
from appliance.fault.verbs import verbs


def main() -> int:
    """Serve until SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m appliance.fault")
    parser.add_argument("--config", type=Path, required=True, help="the node's configuration")
    parser.add_argument("--state", type=Path, required=True, help="where faults are remembered")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = load(chosen.config)
        serve(Agent(verbs(config), chosen.state), config.drill.socket)
    except (ConfigInvalid, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
