"""The documented accessor, the signals and the decorators, as users write them."""

from typing import Any, assert_type

from django.db import connection, connections
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from django_resilient_pg import resilience_of
from django_resilient_pg.decorators import not_replayable, replayable
from django_resilient_pg.errors import CommitOutcomeUnknown
from django_resilient_pg.signals import ConnectionLost, connection_lost
from django_resilient_pg.state.shared import Resilience, Stats
from django_resilient_pg.transaction import retry_atomic


def health(alias: str = "default") -> dict[str, object]:
    """What a monitoring page shows."""
    assert_type(resilience_of(connection), Resilience)
    assert_type(resilience_of(alias), Resilience)
    found = resilience_of(connections[alias])
    assert_type(found.stats, Stats)
    assert_type(found.stats.surfaced, int)
    assert_type(found.stats.last_losses, tuple[ConnectionLost, ...])
    p99 = found.stats.reconnects.p99
    return {
        "path": None if found.facts is None else found.facts.path,
        "read retries": found.options.read_retries,
        "idle limit": found.limits.idle.seconds,
        "slowest reconnect": 0.0 if p99 is None else p99 * 1000,
        "lost": sum(found.stats.lost.values()),
    }


@receiver(connection_lost)
def note(sender: type[Any], record: ConnectionLost, **kwargs: Any) -> None:
    """A receiver."""
    assert_type(record.healed, bool)


@retry_atomic
def move(product: int, quantity: int = 1) -> str:
    """A retried transaction keeps its types."""
    return str(product * quantity)


@replayable
def order(request: HttpRequest) -> HttpResponse:
    """A view that may be replayed."""
    try:
        assert_type(move(1, quantity=2), str)
    except CommitOutcomeUnknown as error:
        assert_type(error.xid, int | None)
    return HttpResponse()


@not_replayable
def export(request: HttpRequest) -> HttpResponse:
    """A view that may not."""
    return HttpResponse()
