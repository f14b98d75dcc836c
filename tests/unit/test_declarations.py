"""Declared values: what is taken, what is refused, and what the refusal names."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from django_resilient_pg.conf.declarations import Declaration, InvalidValue, closest, suggestion

SECONDS = Declaration("wait", "number", 1.0, unit="seconds", lowest=0.1, highest=3600)
TIMES = Declaration("retries", "integer", 2, unit="times", lowest=0, highest=10)
FLAG = Declaration("peek", "boolean", True)
PATH = Declaration("credentials", "path", None, optional=True)
WORDS = Declaration("methods", "choices", ("GET",), choices=("GET", "HEAD", "POST"))
LENIENT = [SECONDS, TIMES, FLAG, PATH, WORDS, TIMES._replace(optional=True)]
EVERY = [*LENIENT, *(one._replace(strict=True) for one in LENIENT if one is not PATH)]


@pytest.mark.parametrize(
    ("declared", "value", "taken"),
    [
        (SECONDS, 0.1, 0.1),
        (SECONDS, 3600, 3600.0),
        (SECONDS, " 2.5 ", 2.5),
        (TIMES, 3.0, 3),
        (TIMES, "3", 3),
        (FLAG, "Yes", True),
        (FLAG, " off ", False),
        (FLAG, 0, False),
        (PATH, " shop.db.login ", "shop.db.login"),
        (PATH, None, None),
        (PATH, "null", None),
        (WORDS, ["GET", "GET"], frozenset({"GET"})),
        (WORDS, (), frozenset()),
        (SECONDS._replace(strict=True), 3, 3.0),
        (TIMES._replace(strict=True), 3, 3),
        (FLAG._replace(strict=True), False, False),
    ],
)
def test_taken(declared: Declaration, value: object, taken: object) -> None:
    checked = declared.checked(value)
    assert (checked, type(checked)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (SECONDS, True),
        (SECONDS, "soon"),
        (SECONDS, None),
        (SECONDS, "none"),
        (SECONDS, [1]),
        (TIMES, 1.5),
        (TIMES, "1.5"),
        (FLAG, 2),
        (FLAG, 1.0),
        (FLAG, None),
        (PATH, "token"),
        (PATH, 1),
        (WORDS, "GET"),
        (WORDS, ["get"]),
        (SECONDS._replace(strict=True), "3"),
        (TIMES._replace(strict=True), 3.0),
        (TIMES._replace(strict=True), True),
        (FLAG._replace(strict=True), 1),
        (FLAG._replace(strict=True), "yes"),
    ],
)
def test_of_a_wrong_kind(declared: Declaration, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        declared.checked(value)
    assert caught.value.wrong_kind
    assert f", but must be {declared.allowed}." in str(caught.value)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("declared", "value", "nearest"),
    [
        (SECONDS, 0.09, "0.1"),
        (SECONDS, math.inf, "3600"),
        (SECONDS, -math.inf, "0.1"),
        (SECONDS._replace(highest=31_536_000), 1e9, "31536000"),
        (TIMES, -1, "0"),
        (TIMES, 10**400, "10"),
        pytest.param(TIMES, 10**5000, "10", id="too long to be printed"),
        (TIMES, -(10**400), "0"),
    ],
)
def test_out_of_bounds_the_nearest_valid_value_is_named(
    declared: Declaration, value: float, nearest: str, strict: bool
) -> None:
    with pytest.raises(InvalidValue) as caught:
        declared._replace(strict=strict).checked(value)
    assert not caught.value.wrong_kind
    assert str(caught.value).endswith(
        f", but must be {declared.allowed}. The nearest valid value is {nearest}."
    )
    assert declared.checked(nearest) == float(nearest)


@pytest.mark.parametrize("value", [math.nan, "nan"])
def test_nothing_is_near_to_what_is_no_number(value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        SECONDS.checked(value)
    assert str(caught.value) == f"is {value!r}, but must be a number from 0.1 to 3600 seconds."
    assert not caught.value.wrong_kind


def test_what_is_allowed_in_words() -> None:
    assert [one.allowed for one in LENIENT] == [
        "a number from 0.1 to 3600 seconds",
        "a whole number from 0 to 10 times",
        "True or False",
        'a dotted path such as "project.db.login", or None',
        "a list of some of GET, HEAD, POST",
        "a whole number from 0 to 10 times, or None",
    ]


def test_an_unknown_word_is_named_with_the_closest() -> None:
    with pytest.raises(InvalidValue) as caught:
        WORDS.checked(["GET", "PSOT"])
    assert str(caught.value) == (
        "is ['GET', 'PSOT'], but must be a list of some of GET, HEAD, POST. 'PSOT' is unknown: did"
        ' you mean "POST"?'
    )


@pytest.mark.parametrize("value", ["user:s3cr3tpw", "s3cr3tpw", ["s3cr3tpw"], {"s3cr3tpw": 1}])
def test_in_the_place_of_a_path_nothing_is_shown(value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        PATH.checked(value)
    assert str(caught.value).startswith(f"is a {type(value).__name__} that is not shown, but must")
    assert "s3cr3tpw" not in str(caught.value)


def test_names() -> None:
    known = ("idle_timeout", "GET")
    assert (closest("Idle_Timout", known), closest("get", known)) == known
    assert closest(10**5000, known) == ""
    assert suggestion("idel_timeout", known) == 'did you mean "idle_timeout"?'
    assert suggestion("xyzzy", known) == "use one of idle_timeout, GET."


@given(
    declared=st.sampled_from(EVERY),
    value=st.one_of(
        *(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary()),
        st.lists(st.sampled_from([*WORDS.choices, "get", 1, None]), max_size=3),
    ),
)
@example(declared=SECONDS, value="9" * 400)
@example(declared=TIMES, value="1e2")
@example(declared=SECONDS, value="\N{ARABIC-INDIC DIGIT TWO}")
def test_whatever_is_given_is_taken_or_refused(declared: Declaration, value: Any) -> None:
    refusal = ""
    try:
        taken = declared.checked(value)
    except InvalidValue as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith("is ")
        assert len(refusal) < 300
    else:
        assert declared.checked(taken) == taken
