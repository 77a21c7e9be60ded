"""``health.json``: what the health unit found when it last tried the collector's whole path."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.observe.source import Unavailable

STALE_SECONDS = 5.0
"""The unit writes at least each second; after this long without, it hangs or is dead."""


class HealthState(BaseModel):
    """The verdict, and since when it holds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: str = Field(examples=["ok"], description="ok, starting, disk_full, hung or killed")
    reason: str = Field("", examples=[""])
    since_ns: int = Field(0, examples=[1767225600000000000])
    updated_ns: int = Field(examples=[1767229200000000000])

    def trouble(self, now_ns: int) -> str:
        """Why this is no reason to call the node healthy; empty when it is."""
        age = (now_ns - self.updated_ns) / 1e9
        if age > STALE_SECONDS:
            return f"the health unit said nothing for {age:.0f} s: it has stopped, or hangs"
        if self.state != "ok":
            return f"the collector is {self.state}" + (f": {self.reason}" if self.reason else "")
        return ""


def read(path: Path) -> HealthState:
    """Read the file; raises :class:`Unavailable`."""
    try:
        return HealthState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"the health unit has not started: there is no {path}") from None
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise Unavailable(f"{path} is not what the health unit writes") from None
