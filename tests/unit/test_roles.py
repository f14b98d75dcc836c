"""What an alias is to reach."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_resilient_pg.conf.wanted import Wanted, wanted
from django_resilient_pg.policy import messages
from django_resilient_pg.policy.lookup import Lookup
from django_resilient_pg.policy.rules import Circumstances, RetryRule, decide
from django_resilient_pg.policy.verdicts import Failure, Phase, Reason, judge
from django_resilient_pg.sql.statements import Kind


@pytest.mark.parametrize(
    ("primary", "attributes", "expected"),
    [
        (None, "", Wanted.ANY),
        (None, "any", Wanted.ANY),
        (None, "primary", Wanted.PRIMARY),
        (None, "read-write", Wanted.PRIMARY),
        (None, "standby", Wanted.REPLICA),
        (None, "read-only", Wanted.REPLICA),
        (None, "prefer-standby", Wanted.REPLICA),
        (True, "", Wanted.PRIMARY),
        (True, "any", Wanted.PRIMARY),
        (False, "", Wanted.ANY),
        (False, "read-write", Wanted.ANY),
        (False, "standby", Wanted.REPLICA),
    ],
)
def test_the_option_comes_before_target_session_attrs(
    primary: bool | None, attributes: str, expected: Wanted
) -> None:
    assert wanted("default", primary, attributes) is expected


@pytest.mark.parametrize("attributes", ["standby", "read-only", "prefer-standby"])
def test_a_contradiction_is_said(attributes: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f'"default" is True, but .*"{attributes}"'):
        wanted("default", True, attributes)


def test_target_session_attrs_is_found_where_libpq_finds_it() -> None:
    environ = {"PGTARGETSESSIONATTRS": "read-write"}
    name, given = "target_session_attrs", {"target_session_attrs": "any"}
    assert Lookup({}, {}).text(name) == ""
    assert Lookup({}, environ).text(name) == "read-write"
    assert Lookup(given, environ).text(name) == "any"


def test_leading_to_a_standby_is_worth_another_attempt() -> None:
    text = messages.standby("default")
    verdict = judge(Failure(Phase.CONNECT, None, "OperationalError", None, None, text))
    assert (verdict.rule, verdict.transient) == ("wrong role", True)
    assert verdict.reason is Reason.FAILOVER


REFUSED = Failure(
    phase=Phase.STATEMENT,
    connection_lost=True,
    exception="ReadOnlySqlTransaction",
    sqlstate="25006",
    severity="ERROR",
    text="cannot execute INSERT in a read-only transaction",
)


@pytest.mark.parametrize(
    ("kind", "autocommit", "untouched", "rule"),
    [
        (Kind.WRITE, True, True, RetryRule.REFUSED),
        (Kind.READ, True, True, RetryRule.REFUSED),  # SELECT nextval()
        (Kind.WRITE, False, True, RetryRule.REFUSED),
        (Kind.WRITE, False, False, None),
        (Kind.UNREPEATABLE, True, True, None),
    ],
)
def test_what_a_standby_refused_had_no_effect(
    kind: Kind, autocommit: bool, untouched: bool, rule: RetryRule | None
) -> None:
    at = Circumstances(autocommit=autocommit, untouched=untouched)
    verdict = judge(REFUSED)
    assert decide(verdict, kind, at).rule is rule
