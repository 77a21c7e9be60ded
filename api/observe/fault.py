"""The unit that makes the faults of drills: what it can do, and what it does."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from api.observe.source import Unavailable
from api.views import FaultView
from appliance.fault.ask import ask
from appliance.fault.verbs import FaultFailed

_SECONDS = 1.0


def look(path: Path) -> FaultView:
    """Ask it at its socket; raises :class:`Unavailable`."""
    try:
        return FaultView.model_validate(ask(path, {"ask": "state"}, _SECONDS))
    except FaultFailed as failed:
        raise Unavailable(str(failed)) from None
    except ValidationError:
        raise Unavailable(f"{path}: what answers is not tandem-fault") from None
