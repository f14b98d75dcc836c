"""What a wrapper knows about connecting, and how long it holds."""

from __future__ import annotations

import pytest

from django_resilient_pg.conf.wanted import Wanted
from django_resilient_pg.policy.rules import Budget
from django_resilient_pg.state.connector import Connector


def test_it_connects_only_while_it_does() -> None:
    connector, seen = Connector(), list[bool]()
    connector.connect(lambda: seen.append(connector.connecting), print)
    assert (seen, connector.connecting) == ([True], False)


def test_it_knows_the_lender_only_while_it_connects() -> None:
    connector, seen = Connector(), list[object]()
    connector.connect(lambda: seen.append(connector.lender), print, "a pool")
    assert (seen, connector.lender) == (["a pool"], None)


def test_what_follows_a_failure_is_a_part_of_connecting() -> None:
    connector, seen = Connector(), list[tuple[str, bool]]()

    def fail() -> None:
        raise OSError("refused")

    def failed(error: BaseException) -> None:
        seen.append((str(error), connector.connecting))

    with pytest.raises(OSError, match="refused"):
        connector.connect(fail, failed)
    assert (seen, connector.connecting) == ([("refused", True)], False)


def test_retrying_ends_with_an_error_as_well() -> None:
    connector = Connector()

    def fail() -> None:
        assert connector.retrying
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        connector.retry(fail)
    assert not connector.retrying


def test_a_budget_and_a_wish_for_the_primary_hold_within() -> None:
    connector, budget = Connector(), Budget(1.0)
    with connector.spends(budget) as spent, connector.seeks(True):
        assert (spent, connector.budget, connector.seeks_primary) == (budget, budget, True)
    assert (connector.budget, connector.seeks_primary) == (None, False)


def test_what_the_settings_say_is_kept() -> None:
    connector = Connector()
    connector.planned(Wanted.PRIMARY, 30.0, 7, direct=True)
    assert (connector.wanted, connector.wake) == (Wanted.PRIMARY, 30.0)
    assert (connector.settings, connector.direct) == (7, True)
