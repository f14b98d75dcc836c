"""The addresses that an attempt to connect tries, and attempts on some of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from django_resilient_pg.policy.lookup import Lookup
from django_resilient_pg.policy.places import Place, only, places, resolve

NOWHERE = {"HOME": "/nonexistent", "PGSYSCONFDIR": "/nonexistent"}
NAMES = {"a": ["10.0.0.1", "10.0.0.2"], "b": ["10.0.1.1"]}


def found(params: Mapping[str, object], **environ: str) -> list[Place]:
    return places(Lookup(params, NOWHERE | environ), resolve=lambda host: NAMES.get(host, []))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [("", "", "")]),
        ({"host": "/run/postgresql", "port": 5433}, [("/run/postgresql", "", "5433")]),
        ({"host": "192.0.2.1"}, [("192.0.2.1", "", "")]),
        ({"host": "2001:db8::1"}, [("2001:db8::1", "", "")]),
        ({"host": "b", "port": "1"}, [("b", "10.0.1.1", "1")]),
        ({"host": "a", "port": "1"}, [("a", "10.0.0.1", "1"), ("a", "10.0.0.2", "1")]),
        ({"host": "nowhere"}, [("nowhere", "", "")]),
        ({"host": "a", "hostaddr": "10.9.9.9"}, [("a", "10.9.9.9", "")]),
        ({"hostaddr": "10.9.9.9,10.9.9.8"}, [("", "10.9.9.9", ""), ("", "10.9.9.8", "")]),
        (
            {"host": "a,b", "port": "1,2"},
            [("a", "10.0.0.1", "1"), ("a", "10.0.0.2", "1"), ("b", "10.0.1.1", "2")],
        ),
        ({"host": "192.0.2.1,b", "port": "1"}, [("192.0.2.1", "", "1"), ("b", "10.0.1.1", "1")]),
    ],
)
def test_what_is_tried(params: Mapping[str, object], expected: list[tuple[str, ...]]) -> None:
    assert found(params) == [Place(*one) for one in expected]


def test_the_environment_counts_where_the_settings_say_nothing() -> None:
    assert found({}, PGHOST="b", PGPORT="7") == [Place("b", "10.0.1.1", "7")]
    assert found({"host": "192.0.2.1"}, PGHOST="a,b") == [Place("192.0.2.1", "", "")]


def test_an_attempt_on_some_of_them() -> None:
    every = found({"host": "a,192.0.2.1", "port": "1,2"})
    some = {"host": "a,192.0.2.1", "hostaddr": "10.0.0.2,", "port": "1,2"}
    assert only(every[1:]) == some
    assert only(found({})) == {"host": None, "hostaddr": None, "port": None}


def test_a_name_that_is_not_known_is_left_to_the_driver() -> None:
    assert resolve("no-such-name.invalid") == []
    assert "127.0.0.1" in resolve("localhost")
