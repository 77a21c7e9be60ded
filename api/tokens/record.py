"""A token, as the register keeps it and as answers show it."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Self

from pydantic import Field

from api.caller import Role
from api.register.store import Entry
from api.views import View

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}"
"""No space: names that have one are those of callers whose token is not in the register."""
_PREFIX: Final = "tandem_"
"""By which a search for secrets in repositories and logs knows one."""


class TokenView(View):
    """A token; what it looks like is not known any more."""

    id: str = Field(examples=["20260101T010000-9f86d081"])
    name: str = Field(examples=["ci"])
    role: Role = Field(examples=["operator"])
    created_ns: int = Field(examples=[1767229200000000000])
    created_by: str = Field(examples=["local token"], description="The name of that token")
    expires_ns: int | None = Field(None, examples=[1775005200000000000], description="null: never")
    expired: bool = Field(False, examples=[False])


class TokenRecord(View):
    """What the register keeps: no more of the token than its SHA-256."""

    name: str = Field(pattern=f"^{NAME}$")
    role: Role
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created_by: str
    created_ns: int
    expires_ns: int | None = None

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The body of ``entry``; raises ValidationError."""
        return cls.model_validate(entry.body)

    def expired(self, now_ns: int) -> bool:
        """Whether its time is over."""
        return self.expires_ns is not None and self.expires_ns <= now_ns

    def view(self, key: str, now_ns: int) -> TokenView:
        """As answers show it."""
        return TokenView(
            id=key,
            name=self.name,
            role=self.role,
            created_ns=self.created_ns,
            created_by=self.created_by,
            expires_ns=self.expires_ns,
            expired=self.expired(now_ns),
        )


def new_token() -> str:
    """256 random bits."""
    return _PREFIX + secrets.token_urlsafe(32)


def hide_tokens(text: str) -> str:
    """``text`` without what looks like a token: somebody may have put one where none belongs."""
    return re.sub(rf"{_PREFIX}[\w-]+", f"{_PREFIX}…", text)


def new_key(now_ns: int) -> str:
    """The register drops the first keys when it is full: those of the oldest tokens."""
    return f"{datetime.fromtimestamp(now_ns / 1e9, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def digest_of(token: str) -> str:
    """What is kept of a token.

    Slow hashes are for passwords, which can be guessed. Nobody guesses 256 random bits, however
    fast the hash is; and each request has to be checked.
    """
    return sha256(token.encode(errors="surrogateescape")).hexdigest()
