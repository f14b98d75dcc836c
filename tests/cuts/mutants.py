"""Engines that are broken on purpose: what is worth its name finds each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django_resilient_pg.policy.rules import Circumstances, Decision, RetryRule, decide
from django_resilient_pg.policy.verdicts import Verdict
from django_resilient_pg.recovery import statement
from django_resilient_pg.sql.kinds import Kind


def retries_writes(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    if at.autocommit and kind is Kind.WRITE:
        return Decision(RetryRule.NOTHING_SENT, "")
    return decide(verdict, kind, at)


def takes_an_end_for_not_sent(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    return Decision(RetryRule.NOTHING_SENT, "") if verdict.lost else decide(verdict, kind, at)


def goes_on_outside(verdict: Verdict, kind: Kind, at: Circumstances) -> Decision:
    if not at.autocommit and not at.pinned_by:
        return Decision(RetryRule.FIRST, "")
    return decide(verdict, kind, at)


def without_a_guard(self: Any) -> Any:
    return self._run()


#: By name: where it is broken, what is put there, and the units of work that show it.
MUTANTS: Final[dict[str, tuple[Any, str, Callable[..., Any], list[str]]]] = {
    "writes in autocommit are retried": (statement, "decide", retries_writes, ["write", "create"]),
    "reads are not guarded": (
        statement.Recovery,
        "_guarded",
        without_a_guard,
        ["read_that_writes", "read_that_lies"],
    ),
    "an end counts as not sent": (statement, "decide", takes_an_end_for_not_sent, ["write"]),
    "it goes on outside the transaction": (statement, "decide", goes_on_outside, ["atomic_of_two"]),
}


def break_engine(name: str, put: Callable[[Any, str, Any], None] = setattr) -> list[str]:
    """Put a mutant in its place; return the units of work that show it."""
    owner, attribute, broken, units = MUTANTS[name]
    put(owner, attribute, broken)
    return units
