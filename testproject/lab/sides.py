"""The two applications that the lab compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testproject.comparison import RESILIENT, STOCK

#: Seconds that the resilient application may wait for its database: more than any fault lasts.
PATIENCE = 30.0
#: Milliseconds after which a path that acknowledges nothing is dead. The engine's default is 30 s,
#: which nobody would want to watch.
SILENCE = 2000
#: Seconds that a payment provider takes. The database session is idle for as long.
PAYMENT = 4.0


@dataclass(frozen=True, slots=True)
class Side:
    """One application: the name is also that of its database."""

    name: str
    title: str
    engine: str
    options: dict[str, Any]


SIDES = (
    Side("stock", "Django’s engine", STOCK, {}),
    Side(
        "resilient",
        "django-resilient-pg",
        RESILIENT,
        {"tcp_user_timeout": SILENCE, "resilience": {"retry_deadline": PATIENCE}},
    ),
)
