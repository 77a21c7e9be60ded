"""``/v1/config``: what holds, where it is from, and changing it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access import from_peer
from api.audit.watch import note
from api.caller import caller
from api.cluster import Observed
from api.config.change import Applied
from api.config.kept import ChangedKey, Version, current, history
from api.config.node import NodeConfig, invalid_settings
from api.operations.model import Operation
from api.operations.routes import Key, Known
from api.problems import Problem, ProblemDocument
from api.views import View
from appliance.config import ConfigFile, ConfigInvalid
from appliance.settings import Settings, adopt, diff, drift, patched, reset
from appliance.settings.layers import flat

router = APIRouter(prefix="/v1/config", tags=["configuration"])

_DEADLINE_SECONDS = 120.0


def configured(request: Request) -> NodeConfig:
    """The configuration of this node."""
    found: NodeConfig = request.app.state.node_config
    return found


Configured = Annotated[NodeConfig, Depends(configured)]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", max_length=64, description="The `ETag` of what is to be changed"),
]
DryRun = Annotated[bool, Query(description="Only say what would change; answers 200")]
Values = Annotated[
    dict[str, Any],
    Body(
        examples=[{"store": {"retention_days": 60}}],
        description="In the shape of the configuration file",
    ),
]


class KeyView(View):
    """A key of the configuration."""

    value: Any = Field(examples=[60.0])
    source: str = Field(examples=["settings"], description="`default`, `file` or `settings`")


class DriftView(View):
    """A setting beneath which the file has changed since it was set."""

    key: str = Field(examples=["store.retention_days"])
    setting: Any = Field(examples=[60.0], description="What holds")
    was: Any = Field(examples=[30.0], description="What the file said when it was set")
    now: Any = Field(examples=[45.0], description="What the file says")


class NodeInForce(View):
    """How far a node is."""

    version: int | None = Field(None, examples=[7], description="null: it does not say")
    pending_restart: list[str] = Field([], examples=[["receive.shards"]])
    problem: str = Field("", examples=[""], description="Why the collector cannot use it")


class ConfigView(View):
    """The configuration of the node that answers, and how far all nodes are."""

    version: int = Field(examples=[7], description="Of the settings; 0: the file alone")
    values: dict[str, Any] = Field(examples=[{"store": {"retention_days": 60}}])
    keys: dict[str, KeyView] = Field(
        examples=[{"store.retention_days": {"value": 60, "source": "settings"}}],
        description="What holds on this node, by dotted key",
    )
    drift: list[DriftView] = Field(examples=[[]], description="See `/v1/config/drift`")
    nodes: dict[str, NodeInForce] = Field(
        examples=[{"n1": {"version": 7, "pending_restart": [], "problem": ""}}]
    )


class Preview(View):
    """What a change would do."""

    version: int = Field(examples=[8], description="That it would become")
    changes: list[ChangedKey]


_REFUSED: dict[int | str, dict[str, object]] = {
    200: {"model": Preview, "description": "With `dry_run`: what would change"},
    202: {
        "model": Operation,
        "description": "The operation that applies it, node by node",
        "headers": {"Location": {"description": "The operation", "schema": {"type": "string"}}},
    },
    409: {"model": ProblemDocument, "description": "It cannot be done now"},
    412: {"model": ProblemDocument, "description": "The settings have changed since"},
    422: {"model": ProblemDocument, "description": "They cannot be used; `errors` names each key"},
    428: {"model": ProblemDocument, "description": "`If-Match` is missing"},
    503: {"model": ProblemDocument, "description": "It cannot be written"},
}


class Rollback(BaseModel):
    """A version to go back to."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=0, examples=[5], description="0: the file alone")


class Decision(BaseModel):
    """What is to become of drift."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["adopt", "reset"] = Field(
        examples=["reset"],
        description="`adopt`: the setting stays, and the file's value is known; "
        "`reset`: the file's value holds",
    )
    keys: list[str] = Field(min_length=1, max_length=100, examples=[["store.retention_days"]])


# ── changing ──────────────────────────────────────────────────────────────────────────────────


class Change:
    """What a request that changes settings needs; made anew for each."""

    def __init__(
        self,
        request: Request,
        response: Response,
        observed: Observed,
        known: Known,
        node: Configured,
        if_match: IfMatch = None,
        key: Key = None,
        dry_run: DryRun = False,
    ) -> None:
        if observed.config.cluster is None:
            raise Problem(
                HTTPStatus.CONFLICT,
                "no-settings",
                "Nothing can be set on this node",
                "it is alone: change its configuration file",
            )
        self.held = current(observed.register)
        self.known_versions = history(observed.register)
        self.file: ConfigFile = node.file()
        self._request = request
        self._by = caller(request).name
        self._response = response
        self._known = known
        self._node = node
        self._key = key
        self._dry_run = dry_run
        _must_match(if_match, self.held.version, dry_run)

    async def begin(self, settings: Settings, reason: str) -> Preview | Operation:
        """Begin the operation, or say what it would change."""
        before = self._node.lay(self.held.settings).config
        after = self._node.lay(settings).config
        changes = [ChangedKey.of(one) for one in diff(before, after)]
        if self._dry_run:
            self._response.status_code = HTTPStatus.OK
            return Preview(version=settings.version, changes=changes)
        version = Version(
            version=settings.version,
            by=self._by,
            time_ns=0,
            operation="",
            reason=reason,
            changes=changes,
            values=settings.values,
            beneath=settings.beneath,
        )
        begun = await self._known.begin(
            "config", {"version": version.model_dump()}, self._by, _DEADLINE_SECONDS, key=self._key
        )
        note(self._request, operation=begun.id, version=version.version)
        self._response.headers["Location"] = f"/v1/operations/{begun.id}"
        return Operation.model_validate(begun.model_dump())


def _must_match(if_match: str | None, version: int, dry_run: bool) -> None:
    if if_match is None:
        if dry_run:
            return
        raise Problem(
            HTTPStatus.PRECONDITION_REQUIRED,
            "if-match",
            "If-Match is missing",
            "send the ETag of GET /v1/config, so that no other change is undone",
        )
    if if_match.strip() != f'"{version}"':
        raise Problem(
            HTTPStatus.PRECONDITION_FAILED,
            "changed",
            "The settings have changed since",
            f'the ETag is "{version}" now; look at it, and make your change to that',
        )


def _patched(settings: Settings, values: dict[str, Any], file: ConfigFile) -> Settings:
    try:
        return patched(settings, values, file)
    except ConfigInvalid as invalid:
        raise invalid_settings(invalid) from None


def _version(kept: list[Version], number: int) -> Version:
    if number == 0:
        return Version(version=0, by="", time_ns=0, operation="")
    found = next((one for one in kept if one.version == number), None)
    if found is None:
        names = ", ".join(str(one.version) for one in kept[:10]) or "none"
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "unknown",
            "There is no such thing",
            f"version {number} is not kept; there are: {names}",
        )
    return found


# ── operations ────────────────────────────────────────────────────────────────────────────────


@router.get("", summary="The configuration")
async def config(response: Response, observed: Observed, node: Configured) -> ConfigView:
    """Defaults lie under the file of Ansible, and that under the settings. The `ETag` is that of
    the settings, which all nodes have in common.
    """
    held = current(observed.register)
    file = node.file()
    layers = node.lay(node.settings)
    values = flat(layers.config)
    response.headers["ETag"] = f'"{held.version}"'
    nodes = {observed.name: _in_force(observed.view().collector)}
    for peer in observed.peers.values():
        nodes[peer.name] = _in_force(peer.view.collector if peer.view else None)
    return ConfigView(
        version=held.version,
        values=held.values,
        keys={
            key: KeyView(value=values[key], source=source)
            for key, source in sorted(layers.sources.items())
        },
        drift=[
            DriftView(key=one.key, setting=one.setting, was=one.was, now=one.now)
            for one in drift(held.settings, file)
        ],
        nodes=nodes,
    )


def _in_force(collector: Any) -> NodeInForce:
    if collector is None:
        return NodeInForce()
    return NodeInForce(
        version=collector.settings_version,
        pending_restart=list(collector.pending_restart),
        problem=collector.settings_problem,
    )


@router.put(
    "", summary="Replace the settings", status_code=202, responses=_REFUSED, response_model=None
)
async def replace_settings(
    change: Annotated[Change, Depends()], values: Values
) -> Preview | Operation:
    """What is not named is as the file has it."""
    empty = Settings(version=change.held.version)
    return await change.begin(_patched(empty, values, change.file), "replacement")


@router.patch(
    "", summary="Change settings", status_code=202, responses=_REFUSED, response_model=None
)
async def change_settings(
    change: Annotated[Change, Depends()], values: Values
) -> Preview | Operation:
    """A JSON merge patch (RFC 7396): null takes a key out, so that the file's value holds."""
    return await change.begin(_patched(change.held.settings, values, change.file), "change")


@router.post(
    "/rollback",
    summary="Go back to settings of before",
    status_code=202,
    responses=_REFUSED
    | {404: {"model": ProblemDocument, "description": "That version is not kept"}},
    response_model=None,
)
async def roll_settings_back(
    change: Annotated[Change, Depends()], wanted: Annotated[Rollback, Body()]
) -> Preview | Operation:
    """They become a new version."""
    found = _version(change.known_versions, wanted.version)
    settings = Settings(version=change.held.version + 1, values=found.values, beneath=found.beneath)
    return await change.begin(settings, f"back to version {found.version}")


@router.post(
    "/drift",
    summary="Decide on drift",
    status_code=202,
    responses=_REFUSED,
    response_model=None,
)
async def decide_on_drift(
    change: Annotated[Change, Depends()], wanted: Annotated[Decision, Body()]
) -> Preview | Operation:
    """A setting keeps Ansible's change of the same key from having an effect. Either is in order,
    but somebody has to say so.
    """
    decide = adopt if wanted.action == "adopt" else reset
    try:
        settings = decide(change.held.settings, wanted.keys, change.file)
    except ConfigInvalid as invalid:
        raise invalid_settings(invalid) from None
    return await change.begin(settings, f"{wanted.action} {', '.join(wanted.keys)}")


@router.get("/history", summary="The settings that hold, and those of before")
async def settings_history(
    observed: Observed, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> list[Version]:
    """The newest first. The cluster keeps the last 100."""
    return history(observed.register)[:limit]


@router.get(
    "/history/{version}",
    summary="Settings of before",
    responses={404: {"model": ProblemDocument, "description": "That version is not kept"}},
)
async def settings_version(
    observed: Observed, version: Annotated[int, Path(ge=1, lt=2**31)]
) -> Version:
    """With what they changed."""
    return _version(history(observed.register), version)


@router.put("/candidate", include_in_schema=False)
async def candidate(request: Request, observed: Observed, node: Configured) -> Applied:
    """Another node applies settings that do not hold yet."""
    if not from_peer(request):
        raise Problem(
            HTTPStatus.NOT_FOUND, "", "Not Found", f"there is nothing at {request.url.path}"
        )
    try:
        settings = Settings.model_validate_json(await request.body())
    except ValueError:
        raise Problem.parameter("body", "no settings") from None
    return Applied(config_sha256=(await node.apply(settings)).sha256())
