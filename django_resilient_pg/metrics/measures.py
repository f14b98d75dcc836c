"""What is counted and timed, once for all exporters: from a signal's record to a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, Final

from django.dispatch import Signal

from .. import signals
from ..conf import request_settings
from ..conf.records import Record
from ..policy.rules import RetryRule

_CONFLICTS: Final = frozenset({"40001", "40P01"})
# What each label may say. Of aliases the project has as many as it has.
_ALIAS: Final[dict[str, tuple[str, ...]]] = {"alias": ()}
_REASON: Final = {"reason": tuple(reason.value for reason in signals.Reason)}
_OUTCOME: Final = {"outcome": ("healed", "surfaced")}
_WHY: Final = {"why": tuple(rule.value for rule in RetryRule)}
_CAUSE: Final = {"cause": ("loss", "conflict")}
# No other method is replayed.
_METHOD: Final = {"method": tuple(request_settings.METHODS.choices)}
_FORMER: Final = {"reason": (*_REASON["reason"], "idle_limit")}

#: From some milliseconds on one machine to a failover.
OUTAGE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Idle timeouts are found between a minute and some hours.
IDLENESS: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0, 350.0, 600.0, 1800.0, 3600.0, 7200.0)


class Measure(Record):
    """One metric.

    Attributes:
        signal: whose records it is made of.
        name: for Prometheus, without what a counter ends with.
        event: for OpenTelemetry.
        unit: for OpenTelemetry; "s": its name for Prometheus ends with "_seconds".
        text: what it is, for people.
        labels: the labels of a record.
        values: of these labels, by their names: each has few.
        seconds: what a record adds to a histogram; ``None``: it is one more for a counter.
        buckets: of the histogram.
    """

    signal: Signal
    name: str
    event: str
    unit: str
    text: str
    labels: Callable[[Any], Mapping[str, str]]
    values: dict[str, tuple[str, ...]]
    seconds: Callable[[Any], float] | None = None
    buckets: tuple[float, ...] = ()


def _of_loss(record: signals.ConnectionLost) -> Mapping[str, str]:
    outcome = "healed" if record.healed else "surfaced"
    return {"alias": record.alias, "reason": record.reason.value, "outcome": outcome}


def _of_idleness(record: signals.ConnectionLost) -> Mapping[str, str]:
    return {"alias": record.alias, "reason": record.reason.value}


def _of_outage(record: signals.ConnectionLost) -> Mapping[str, str]:
    return {"alias": record.alias, "outcome": _of_loss(record)["outcome"]}


def _of_replacement(record: signals.ConnectionReplaced) -> Mapping[str, str]:
    reason = "idle_limit" if record.reason is None else record.reason.value
    return {"alias": record.alias, "reason": reason}


def _of_alias(record: Any) -> Mapping[str, str]:
    return {"alias": record.alias}


def _of_statement(record: signals.StatementRetried) -> Mapping[str, str]:
    return {"alias": record.alias, "why": record.why}


def _of_transaction(record: signals.TransactionRetried) -> Mapping[str, str]:
    cause = "conflict" if record.sqlstate in _CONFLICTS else "loss"
    return {"alias": record.alias, "cause": cause}


def _of_request(record: signals.RequestRetried) -> Mapping[str, str]:
    return {"method": record.method}


MEASURES: Final = (
    Measure(
        signals.connection_lost,
        "connections_lost",
        "resilient_pg.connection.lost",
        "{connection}",
        "Connections lost, by reason and outcome: healed, or surfaced as an error.",
        _of_loss,
        _ALIAS | _REASON | _OUTCOME,
    ),
    Measure(
        signals.connection_lost,
        "loss",
        "resilient_pg.loss.duration",
        "s",
        "Time from the loss of a connection to its outcome.",
        _of_outage,
        _ALIAS | _OUTCOME,
        lambda record: record.took,
        OUTAGE,
    ),
    Measure(
        signals.connection_lost,
        "idle_before_loss",
        "resilient_pg.loss.idle",
        "s",
        "How long lost connections had been idle; many near one value: an idle timeout.",
        _of_idleness,
        _ALIAS | _REASON,
        lambda record: record.idle,
        IDLENESS,
    ),
    Measure(
        signals.connection_replaced,
        "connections_replaced",
        "resilient_pg.connection.replaced",
        "{connection}",
        "Connections replaced, by the reason of the loss; idle_limit: before they could be lost.",
        _of_replacement,
        _ALIAS | _FORMER,
    ),
    Measure(
        signals.connection_replaced,
        "reconnect",
        "db.client.connection.create_time",
        "s",
        "Time to make a connection that replaces another one.",
        _of_alias,
        _ALIAS,
        lambda record: record.seconds,
        OUTAGE,
    ),
    Measure(
        signals.connect_retried,
        "connects_retried",
        "resilient_pg.connect.retried",
        "{attempt}",
        "Attempts to connect that failed for a transient cause and were retried.",
        _of_alias,
        _ALIAS,
    ),
    Measure(
        signals.statement_retried,
        "statements_retried",
        "resilient_pg.statement.retried",
        "{statement}",
        "Statements retried with success, by the row of the guarantees that allowed it.",
        _of_statement,
        _ALIAS | _WHY,
    ),
    Measure(
        signals.transaction_retried,
        "transactions_retried",
        "resilient_pg.transaction.retried",
        "{transaction}",
        "Transactions retried by retry_atomic, after a loss or a conflict.",
        _of_transaction,
        _ALIAS | _CAUSE,
    ),
    Measure(
        signals.request_retried,
        "requests_replayed",
        "resilient_pg.request.replayed",
        "{request}",
        "Requests replayed by RequestRetryMiddleware.",
        _of_request,
        _METHOD,
    ),
)


def series(measure: Measure, aliases: Iterable[str]) -> Iterator[Mapping[str, str]]:
    """The labels of everything that it can count, so that a scrape shows the zero before a one."""
    values = measure.values | ({"alias": tuple(aliases)} if "alias" in measure.values else {})
    for chosen in product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def feed(take: Callable[[Measure, Any], object]) -> Callable[[], None]:
    """Call ``take`` with each measure of each record from now on; returns what ends that."""
    by_signal: dict[Signal, list[Measure]] = {}
    for measure in MEASURES:
        by_signal.setdefault(measure.signal, []).append(measure)
    receivers = {signal: partial(_receive, take, found) for signal, found in by_signal.items()}
    for signal, receiver in receivers.items():
        signal.connect(receiver, weak=False)

    def stop() -> None:
        for signal, receiver in receivers.items():
            signal.disconnect(receiver)

    return stop


def _receive(
    take: Callable[[Measure, Any], object], measures: list[Measure], *, record: Any, **_: object
) -> None:
    for measure in measures:
        take(measure, record)
