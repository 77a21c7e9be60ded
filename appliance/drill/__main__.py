"""See :mod:`appliance.drill.send`."""

from __future__ import annotations

import json
import sys

from appliance.drill.send import send


def main() -> int:
    """Read an order, send, and write the log; the exit status."""
    try:
        json.dump(send(json.load(sys.stdin)), sys.stdout)
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
