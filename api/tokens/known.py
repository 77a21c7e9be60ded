"""The tokens that are good on this node: those of the register, of the file, and its own."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from api.caller import Caller
from api.register.store import Entry, Register
from api.tokens.record import TokenRecord, digest_of
from appliance.config import Api

log = logging.getLogger(__name__)

LOCAL_TOKEN = "local.token"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_FILE = Caller("token file", "admin")
_LOCAL = Caller("local token", "admin")


class Expired(Exception):  # noqa: N818 - says what happened
    """The token was good once; the message says until when."""


class Tokens:
    """The digests of all tokens that are good; none of the tokens is kept, or shown."""

    def __init__(self, api: Api, clock: Callable[[], int] = time.time_ns) -> None:
        self._file = api.token_file
        self._runtime_dir = api.runtime_dir
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._given: frozenset[str] = frozenset()
        self._local = ""
        self._register: Register | None = None
        self._made: dict[str, TokenRecord] | None = None

    @property
    def needed(self) -> bool:
        """Whether there are tokens at all."""
        return self._file is not None

    def follow(self, register: Register) -> None:
        """Take the tokens of ``register``, too, as they change."""
        self._register = register
        register.subscribe(self._heard)

    def find(self, digest: str) -> Caller | None:
        """Whose token has ``digest``; None: nobody's. Raises :class:`Expired`."""
        # in a time that does not tell how nearly it is one of them
        given = sum(hmac.compare_digest(digest, one) for one in self._given)
        local = hmac.compare_digest(digest, self._local)
        if local or given:
            return _LOCAL if local else _OF_FILE
        # how long a look-up takes tells something of digests, and nothing of tokens
        record = self._records().get(digest)
        if record is None:
            return None
        if record.expired(self._clock()):
            assert record.expires_ns is not None
            end = datetime.fromtimestamp(record.expires_ns / 1e9, UTC)
            raise Expired(f"the token {record.name} has expired: it was good until {end:%F %T} UTC")
        return Caller(record.name, record.role)

    def _heard(self, entry: Entry) -> None:
        if entry.kind == "token":
            self._made = None

    def _records(self) -> dict[str, TokenRecord]:
        if self._made is None:
            self._made = {}
            for entry in self._register.all("token") if self._register else ():
                try:
                    record = TokenRecord.of(entry)
                except ValidationError:
                    log.error("the token %s is none that this version knows", entry.key)
                    continue
                self._made[record.sha256] = record
        return self._made

    def refresh(self) -> None:
        """Read the file where it has changed."""
        if self._file is None:
            return
        try:
            found = self._file.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            words = self._file.read_text().lower().split()
        except (OSError, ValueError) as error:
            if self._stamp is not None or not self._given:
                log.error("api.token_file: %s; no token of it is good", error)
            self._stamp, self._given = None, frozenset()
            return
        self._stamp = stamp
        self._given = frozenset(word for word in words if _DIGEST.fullmatch(word))
        if not self._given or len(self._given) < len(set(words)):
            log.error("%s: not every line is a hex SHA-256 digest", self._file)

    def make_local(self) -> None:
        """Write a new token for this machine's own command line."""
        if self._file is None:
            return
        token = secrets.token_urlsafe(32)
        path = self._runtime_dir / LOCAL_TOKEN
        temporary = path.with_suffix(".new")
        try:
            self._runtime_dir.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            with open(handle, "w") as file:
                file.write(token + "\n")
            temporary.replace(path)
        except OSError as error:
            log.error("%s: %s; the command line needs a token", path, error.strerror)
            return
        self._local = digest_of(token)
