"""The settings that hold, and those that held before: entries of the register, one a version."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from api.register.store import Register
from api.views import View
from appliance.settings import Change, Settings


class ChangedKey(View):
    """A key whose value differs, and what it takes to use the new one."""

    key: str = Field(examples=["store.retention_days"])
    before: Any = Field(examples=[30.0], description="null: there is none")
    after: Any = Field(examples=[60.0])
    effect: str = Field(
        examples=["live"], description="`live`, or `restart`: of the collector or the API"
    )

    @classmethod
    def of(cls, change: Change) -> ChangedKey:
        """The same for an answer."""
        return cls(key=change.key, before=change.before, after=change.after, effect=change.effect)


class Version(View):
    """Settings that hold, or held."""

    version: int = Field(examples=[7])
    by: str = Field(examples=["ansible"], description="Who made them")
    time_ns: int = Field(examples=[1767229200000000000], description="When they had been applied")
    operation: str = Field(examples=["18bd2c7a5f3e1a00-5d41"], description="That applied them")
    reason: str = Field("", examples=["change of a setting"])
    changes: list[ChangedKey] = Field([], description="From the version before")
    values: dict[str, Any] = Field(
        {}, examples=[{"store": {"retention_days": 60}}], description="As the file would have them"
    )
    beneath: dict[str, Any] = Field(
        {}, examples=[{"store.retention_days": 30.0}], description="What the file said"
    )

    @property
    def settings(self) -> Settings:
        """For a node."""
        return Settings(version=self.version, values=self.values, beneath=self.beneath)


NONE = Version(version=0, by="", time_ns=0, operation="", reason="")
"""Where nothing was ever set."""


def current(register: Register) -> Version:
    """Those that hold."""
    entries = register.all("settings")
    return Version.model_validate(entries[-1].body) if entries else NONE


def history(register: Register) -> list[Version]:
    """All that are kept, the newest first."""
    return [Version.model_validate(e.body) for e in register.all("settings")][::-1]


async def keep(register: Register, version: Version) -> None:
    """From now on they hold; raises a problem."""
    await register.put("settings", f"{version.version:08d}", version.model_dump())
