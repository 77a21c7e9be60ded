"""A line of the audit log, and whether lines are a whole chain."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from pydantic import Field, ValidationError

from api.views import AuditHead, View


class Request(View):
    """A request, as it is to be remembered."""

    time_ns: int = Field(examples=[1767229200000000000], description="When it came")
    caller: str | None = Field(examples=["ci"], description="null: not known, and refused")
    role: str | None = Field(examples=["operator"])
    client: str = Field(examples=["192.0.2.7"], description="Address")
    method: str = Field(examples=["PUT"])
    path: str = Field(examples=["/v1/nodes/n1/drain?vip=v1"])
    status: int = Field(examples=[200])
    request: str = Field(examples=["6d1f0c5a9be04d27"], description="The answer's X-Request-ID")
    more: dict[str, Any] = Field({}, examples=[{}], description="What the operation says of it")


class Record(Request):
    """A line."""

    number: int = Field(ge=1, examples=[7])
    node: str = Field(examples=["n1"], description="That answered it")
    unwritten: int = Field(
        0,
        ge=0,
        examples=[0],
        description="Before this one: refused in a flood, or the disk took no more",
    )
    previous: str = Field(
        pattern="^[0-9a-f]{64}$", examples=["9f86d081…"], description="SHA-256 of the line before"
    )

    def line(self) -> bytes:
        """As it is in the file, without the end of the line."""
        return json.dumps(self.model_dump(mode="json")).encode()


def head_of(record: Record, line: bytes) -> AuditHead:
    """What ``line`` is, when it is the newest."""
    return AuditHead(number=record.number, sha256=sha256(line).hexdigest())


def follow(
    lines: Iterable[bytes], from_start: bool, head: AuditHead, most: int
) -> tuple[list[Record], str]:
    """The last ``most`` records of ``lines``, and what is wrong with the chain; "" if it is whole.

    ``from_start``: whether the first of them is the first that there was. ``head``: of what was
    written last.
    """
    records: deque[Record] = deque(maxlen=most)
    problem = ""
    before = AuditHead() if from_start else None
    for line in lines:
        try:
            record = Record.model_validate_json(line)
        except ValidationError:
            problem = problem or f"what follows line {before.number if before else 0} is no record"
            before = None
            continue
        if before is not None and (record.number, record.previous) != (
            before.number + 1,
            before.sha256,
        ):
            problem = problem or f"line {record.number} does not follow the one before"
        before = head_of(record, line)
        records.append(record)
    if before != head and not (before is None and head == AuditHead()):
        problem = problem or f"the end is not line {head.number} as it was written"
    return list(records), problem
