"""OPTIONS["resilience"]: what is accepted, and what is said about everything else."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler
from hypothesis import example, given
from hypothesis import strategies as st

from django_resilient_pg.conf.options import Options, declarations, of_entry, parse
from django_resilient_pg.conf.options import given as given_by

# The table of the reference, by hand: a default that changes is a decision.
DEFAULTS: dict[str, Any] = {
    "idle_timeout": None,
    "idle_margin": 0.5,
    "age_jitter": 0.1,
    "peek": True,
    "ping_after": 30.0,
    "ping_timeout": 2.0,
    "read_retries": 2,
    "retry_deadline": 10.0,
    "backoff": 0.05,
    "max_backoff": 0.5,
    "commit_outcome": False,
    "primary": None,
    "replay_session": True,
    "pool_leak_after": None,
    "credentials": None,
}
NUMBERS = [d for d in declarations() if d.kind in {"number", "integer"}]


@pytest.mark.parametrize("raw", [None, {}])
def test_defaults(raw: dict[str, object] | None) -> None:
    assert dataclasses.asdict(parse("default", raw)) == DEFAULTS


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"CONN_MAX_AGE": "600"}, "set the number 600, without quotes."),
        ({"CONN_MAX_AGE": "ten"}, 'is "ten", a text: set a number of seconds.'),
        ({"CONN_MAX_AGE": [60]}, "is a list: set a number of seconds."),
        ({"OPTIONS": None}, 'OPTIONS of the database "default" is None'),
        ({"OPTIONS": ["sslmode"]}, 'OPTIONS of the database "default" is a list'),
    ],
)
def test_an_entry_of_a_wrong_type_is_named(entry: dict[str, Any], part: str) -> None:
    """Django takes any type, and raises something cryptic later."""
    with pytest.raises(ImproperlyConfigured) as raised:
        of_entry("default", entry)
    assert part in str(raised.value)
    engine = ConnectionHandler({"default": {"ENGINE": "django_resilient_pg", **entry}})["default"]
    with pytest.raises(ImproperlyConfigured):
        engine.resilience.options  # type: ignore[attr-defined]  # noqa: B018


def test_an_option_may_be_a_key_of_its_own() -> None:
    options = {
        "sslmode": "require",
        "resilience": {"read_retries": 5},
        "resilience__idle_timeout": "60",
        "resilience__peek": "no",
        "another__engine": 1,
    }
    assert given_by("default", options) == {
        "read_retries": 5,
        "idle_timeout": "60",
        "peek": "no",
    }
    parsed = parse("default", given_by("default", options))
    assert (parsed.read_retries, parsed.idle_timeout, parsed.peek) == (5, 60.0, False)
    assert given_by("default", {"sslmode": "require", "another__engine": 1}) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"resilience__idle_timout": "60"},
            "has an unknown resilience option 'idle_timout': did you mean \"idle_timeout\"?",
        ),
        (
            {"resilence__idle_timeout": "60"},
            "has an unknown key 'resilence__idle_timeout': did you mean"
            ' "resilience__idle_timeout"?',
        ),
        (
            {"Resilience__pek": "60"},
            'did you mean "resilience__peek"?',
        ),
        (
            {"resilience__idle_timeout": "soon"},
            "is 'soon', but must be a number from 0.1 to 31536000 seconds, or None.",
        ),
        (
            {"resilience__read_retries": "-1"},
            "must be a whole number from 0 to 100 times. The nearest valid value is 0.",
        ),
        (
            {"resilience__peek": "no", "resilience": {"peek": True}},
            'has the resilience option "peek" twice: as "resilience__peek" and in "resilience".'
            " Remove one of them.",
        ),
        ({"resilience__peek": "no", "resilience": "yes"}, "is a str: make it a dict"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_key_of_its_own_is_refused(options: dict[str, Any], said: str) -> None:
    entry = {"ENGINE": "django_resilient_pg", "NAME": "shop", "OPTIONS": options}
    connection: Any = ConnectionHandler({"default": entry})["default"]
    with pytest.raises(ImproperlyConfigured) as caught:
        connection.get_connection_params()
    assert said in str(caught.value)
    assert 'database "default"' in str(caught.value)


@pytest.mark.parametrize("age", [None, 0, 60, 0.5, True])
def test_every_age_that_django_can_use_is_taken(age: Any) -> None:
    assert of_entry("default", {"CONN_MAX_AGE": age, "OPTIONS": {"a": 1}}) == {"a": 1}
    assert of_entry("default", {}) == {}


def test_declared_once_and_in_order() -> None:
    assert [declared.name for declared in declarations()] == list(DEFAULTS)
    for declared in declarations():
        assert declared.default == DEFAULTS[declared.name]
        assert declared.doc.endswith(".")
        assert declared.optional == (declared.default is None)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("default", {}).peek = False  # type: ignore[misc]


@pytest.mark.parametrize("declared", NUMBERS, ids=lambda d: d.name)
def test_bounds_belong_to_the_range(declared: Any) -> None:
    neighbours: dict[str, float] = {"max_backoff": 3600} if declared.name == "backoff" else {}
    if declared.name == "max_backoff":
        neighbours = {"backoff": 0.001}
    for bound in (declared.lowest, declared.highest):
        options = parse("default", {**neighbours, declared.name: bound})
        assert getattr(options, declared.name) == bound
    for beyond, bound in (
        (declared.lowest - 1, declared.lowest),
        (declared.highest + 1, declared.highest),
    ):
        with pytest.raises(ImproperlyConfigured) as caught:
            parse("default", {**neighbours, declared.name: beyond})
        assert str(caught.value).endswith(f"The nearest valid value is {bound:.15g}.")


@pytest.mark.parametrize(
    ("key", "given_", "expected"),
    [
        ("ping_timeout", "5", 5.0),
        ("ping_timeout", " 0.5 ", 0.5),
        ("ping_timeout", 3, 3.0),
        ("read_retries", "3", 3),
        ("read_retries", 3.0, 3),
        ("idle_timeout", "240", 240.0),
        ("idle_timeout", "None", None),
        ("idle_timeout", "", None),
        ("idle_timeout", None, None),
        ("peek", "false", False),
        ("peek", "Yes", True),
        ("peek", 0, False),
        ("primary", "none", None),
        ("primary", "1", True),
        ("primary", False, False),
        ("credentials", "project.db.token", "project.db.token"),
        ("credentials", "", None),
    ],
)
def test_accepted(key: str, given_: object, expected: object) -> None:
    value = getattr(parse("default", {key: given_}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given_"),
    [
        ("ping_timeout", True),
        ("ping_timeout", "soon"),
        ("ping_timeout", None),
        ("ping_timeout", ""),
        ("ping_timeout", math.nan),
        ("ping_timeout", "nan"),
        ("ping_timeout", math.inf),
        ("ping_timeout", "-inf"),
        ("ping_timeout", [1]),
        ("ping_timeout", 10**400),
        pytest.param("ping_timeout", 10**5000, id="too long to be printed"),
        ("read_retries", 1.5),
        ("read_retries", "1.5"),
        ("read_retries", -1),
        ("idle_timeout", 0),
        ("idle_margin", 1.5),
        ("peek", "maybe"),
        ("peek", 2),
        ("peek", 1.0),
        ("peek", None),
        ("primary", "standby"),
        ("credentials", "token"),
        ("credentials", "project..token"),
        ("credentials", "project.db-token"),
        ("credentials", 1),
    ],
)
def test_refused(key: str, given_: object) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("replica", {key: given_})
    assert f'option "{key}" of the database "replica" is ' in str(caught.value)
    assert len(str(caught.value)) < 300


def test_message_names_alias_key_value_bounds_and_nearest() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("default", {"ping_timeout": -1})
    assert str(caught.value) == (
        'The resilience option "ping_timeout" of the database "default" is -1, but must be a'
        " number from 0.01 to 3600 seconds. The nearest valid value is 0.01."
    )


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("default", {"idle_timout": 5})
    assert str(caught.value) == (
        "The database \"default\" has an unknown resilience option 'idle_timout': did you mean"
        ' "idle_timeout"?'
    )


@pytest.mark.parametrize("key", ["xyzzy", 7, None])
def test_unknown_key_like_no_other_lists_all(key: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"use one of idle_timeout, .*, credentials"):
        parse("default", {key: 5})


@pytest.mark.parametrize("raw", [True, "read_retries=2", [("read_retries", 2)]])
def test_not_a_dict(raw: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=f'"default" is a {type(raw).__name__}: make'):
        parse("default", raw)


@pytest.mark.parametrize(
    "raw", [{"backoff": 5}, {"max_backoff": "0.01"}, {"backoff": 3, "max_backoff": 2.9}]
)
def test_backoff_above_its_maximum(raw: dict[str, object]) -> None:
    with pytest.raises(ImproperlyConfigured, match="contradict each other: max_backoff is"):
        parse("default", raw)


def test_credentials_put_where_their_path_belongs_are_not_shown() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("default", {"credentials": {"user": "app", "password": "hunter2"}})
    assert "hunter2" not in str(caught.value)
    assert "is a dict" in str(caught.value)


@pytest.mark.parametrize("given_", ["user:s3cr3tpw", "s3cr3tpw", ["s3cr3tpw"], {"s3cr3tpw": 1}])
def test_what_is_no_path_is_not_shown(given_: object) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("default", {"credentials": given_})
    assert "s3cr3tpw" not in str(caught.value)
    assert f"is a {type(given_).__name__} that is not shown, but must be" in str(caught.value)


def test_a_url_in_the_place_of_a_key_is_not_shown() -> None:
    with pytest.raises(ImproperlyConfigured, match="option that is not shown: ") as caught:
        parse("default", {"postgres://app:s3cr3tpw@db/shop": 1})
    assert "s3cr3tpw" not in str(caught.value)


@pytest.mark.parametrize(("value", "nearest"), [(0, "0.1"), (1e9, "31536000")])
def test_long_numbers_are_written_out(value: float, nearest: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        parse("default", {"idle_timeout": value})
    assert "from 0.1 to 31536000 seconds" in str(caught.value)
    assert f"The nearest valid value is {nearest}." in str(caught.value)


@given(
    key=st.sampled_from(list(DEFAULTS)),
    given_=st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()),
)
@example(key="ping_timeout", given_="9" * 400)
@example(key="read_retries", given_="1e2")
@example(key="ping_timeout", given_="\N{ARABIC-INDIC DIGIT TWO}")
def test_whatever_is_given_parses_or_is_improperly_configured(key: str, given_: object) -> None:
    try:
        options = parse("default", {key: given_})
    except ImproperlyConfigured:
        return
    # What parses is valid, and parsing it again changes nothing.
    assert parse("default", dataclasses.asdict(options)) == options


@given(raw=st.dictionaries(st.text(), st.text(), min_size=1))
@example(raw={"peek": "no", "peak": "no"})
def test_no_unknown_key_is_ignored(raw: dict[str, Any]) -> None:
    if set(raw) <= set(DEFAULTS):
        return
    with pytest.raises(ImproperlyConfigured):
        parse("default", raw)


def test_options_can_be_made_without_parsing() -> None:
    assert Options(ping_timeout=1.0).ping_timeout == 1.0
