"""Whatever is set, unset and set again: the last word holds, key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import Config, ConfigFile, ConfigInvalid
from appliance.settings import SETTABLE, Settings, diff, drift, lay, merge_patch, patched
from appliance.settings.document import path_of
from appliance.settings.layers import flat
from appliance.settings.scope import leaves, put

APPENDIX = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""RFC 7396, appendix A: original, patch, result."""


@pytest.mark.parametrize(("original", "patch", "result"), APPENDIX)
def test_the_examples_of_the_rfc(original: Any, patch: Any, result: Any) -> None:
    assert merge_patch(original, patch) == result


def test_the_example_of_section_3_of_the_rfc() -> None:
    original = {
        "title": "Goodbye!",
        "author": {"givenName": "John", "familyName": "Doe"},
        "tags": ["example", "sample"],
        "content": "This will be unchanged",
    }
    patch = {
        "title": "Hello!",
        "phoneNumber": "+01-123-456-7890",
        "author": {"familyName": None},
        "tags": ["example"],
    }
    assert merge_patch(original, patch) == {
        "title": "Hello!",
        "author": {"givenName": "John"},
        "tags": ["example"],
        "content": "This will be unchanged",
        "phoneNumber": "+01-123-456-7890",
    }


networks = st.integers(0, 255).map(lambda n: f"10.{n}.0.0/16")
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "allow": st.lists(networks, max_size=3),
    "exporter": st.lists(networks, max_size=3, unique=True).map(
        lambda found: [{"address": one, "name": "n"} for one in found]
    ),
    "listener": st.lists(st.integers(1, 65535), min_size=1, max_size=3, unique=True).map(
        lambda ports: [{"port": port} for port in ports]
    ),
    "store.retention_days": st.integers(1, 36525) | st.floats(0.5, 365),
    "store.max_bytes": st.integers(2**24, 2**40) | st.just("5 GiB"),
    "store.reserve_bytes": st.integers(0, 2**30),
    "store.flush_seconds": st.floats(0.05, 60),
    "metrics.exporters": st.integers(0, 10**6),
    "limits.templates": st.integers(1, 2**24),
    "limits.hold_seconds": st.floats(0, 86400),
}


@st.composite
def documents(draw: st.DrawFn, nulls: bool) -> dict[str, Any]:
    """Some keys with values; or, in a patch, with null."""
    found: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True)):
        put(found, key, draw(VALUES[key] | st.none() if nulls else VALUES[key]))
    return found


def file_of(values: dict[str, Any]) -> ConfigFile:
    return ConfigFile(Path("/etc/tandem/tandem.toml"), values, Config.model_validate(values))


def alone(key: str, value: Any) -> Any:
    """The value of one key as a configuration has it."""
    values: dict[str, Any] = {}
    put(values, key, value)
    return flat(Config.model_validate(values))[key]


@given(documents(nulls=False), st.lists(documents(nulls=True), max_size=4))
def test_the_last_word_on_each_key_holds(values: dict[str, Any], patches: list[Any]) -> None:
    file, settings = file_of(values), Settings()
    said: dict[str, Any] = {}
    for patch in patches:
        settings = patched(settings, patch, file)
        said |= dict(leaves(patch))
    said = {key: value for key, value in said.items() if value is not None}
    layers = lay(file, settings)
    have, beneath, default = flat(layers.config), dict(leaves(values)), flat(Config())
    assert dict(leaves(settings.values)) == said
    assert settings.version == len(patches)
    for key in VALUES:
        if key in said:
            assert (have[key], layers.sources[key]) == (alone(key, said[key]), "settings")
        elif key in beneath:
            assert (have[key], layers.sources[key]) == (alone(key, beneath[key]), "file")
        else:
            assert (have[key], layers.sources[key]) == (default[key], "default")
    assert drift(settings, file) == []
    # nothing else has moved, and the document outlives its file
    assert {c.key for c in diff(file.config, layers.config)} <= said.keys()
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@given(documents(nulls=False), documents(nulls=False), documents(nulls=False))
def test_drift_is_where_the_file_says_something_else_than_when_a_key_was_set(
    before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any]
) -> None:
    settings = patched(Settings(), patch, file_of(before))
    old, new = flat(file_of(before).config), flat(file_of(after).config)
    expected = {key for key, _ in leaves(patch) if old[key] != new[key]}
    assert {one.key for one in drift(settings, file_of(after))} == expected


names = st.sampled_from(
    [*Config.model_fields, *(key.partition(".")[2] for key in SETTABLE), "address", "port"]
) | st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
)


@given(st.dictionaries(names, anything, max_size=4))
def test_any_patch_is_taken_or_refused_with_words(patch: dict[str, Any]) -> None:
    settings, errors = Settings(), []
    try:
        settings = patched(settings, patch, file_of({}))
    except ConfigInvalid as invalid:
        errors = invalid.errors
    assert bool(errors) == (settings.version == 0)
    assert all(error.problem and error.remedy for error in errors)
    assert {key for key, _ in leaves(settings.values)} <= SETTABLE


def test_the_values_tried_are_of_keys_that_can_be_set() -> None:
    assert VALUES.keys() <= SETTABLE
    assert str(path_of(Config())) == "/var/lib/tandem-api/settings.json"
