"""What the description of the API says of problems: their media type, and one example of each."""

from __future__ import annotations

from typing import Any, Final

from api.problems import MEDIA_TYPE, PROBLEM_TYPE

_REF: Final = {"$ref": "#/components/schemas/ProblemDocument"}
_EXAMPLES: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    # status: kind, title, detail
    "400": (("", "Bad Request", "There was an error parsing the body"),),
    "401": (("unauthorized", "A token is needed", "send a token: Authorization: Bearer …"),),
    "403": (
        ("forbidden", "The role does not allow it", "the role admin is needed; ansible has viewer"),
    ),
    "404": (("unknown", "There is no such thing", "there is no VIP 'v9'; there are: v1, v2"),),
    "409": (
        ("paused", "The cluster is paused", "by ansible: switches are replaced; …"),
        ("busy", "Another operation runs", "switchover 18bd2c7a5f3e1a00-5d41 of n1 is running; …"),
        ("nobody-left", "No other node could take over", "v1: n2 is drained itself"),
    ),
    "411": (("no-length", "A body needs a Content-Length", "send one"),),
    "413": (("too-large", "The body is too large", "65536 bytes at most"),),
    "422": (("invalid-parameter", "A parameter is not valid", "limit: 20000 is above 10000"),),
    "412": (("changed", "The settings have changed since", "version 8 holds; …"),),
    "428": (("if-match", "If-Match is missing", "send the ETag of GET /v1/config"),),
    "429": (("too-many", "Too many requests", "ansible makes more than 100 a second"),),
    "502": (("unreachable", "The node does not answer", "n2: no answer within 3 s"),),
    "503": (("busy", "Too many queries", "32 other queries wait already"),),
}
_BODY: Final = {
    "400": "The body is no text",
    "411": "The body's length is not said",
    "413": "The body is too large",
}
_INVALID: Final = "A parameter is not valid; `errors` names it"


def with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Make ``document`` say of errors what :mod:`api.problems` does."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if "requestBody" in operation:
                responses |= {status: {"description": text} for status, text in _BODY.items()}
            # of a parameter that is there twice, or not known
            responses.setdefault("422", {})
            for status, response in responses.items():
                if status[0] in "45":
                    _describe(path, status, response)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _describe(path: str, status: str, response: dict[str, Any]) -> None:
    if status == "422" and response.get("description", "") in ("", "Validation Error"):
        response["description"] = _INVALID
    response["content"] = {MEDIA_TYPE: {"schema": _REF}}
    examples = {
        kind or "blank": {
            "value": {
                "type": PROBLEM_TYPE + kind if kind else "about:blank",
                "title": title,
                "status": int(status),
                "detail": detail,
                "instance": path,
            }
        }
        for kind, title, detail in _EXAMPLES.get(status, ())
    }
    if examples:
        response["content"][MEDIA_TYPE]["examples"] = examples
