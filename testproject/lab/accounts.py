"""Whether the database holds each order once that was acknowledged: asked over a way of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Seconds for which an order is watched: a failover later on may lose it too.
WATCHED = 120.0

FOUND = """
    SELECT placed.token, count(DISTINCT placed.id), count(line.id)
    FROM shop_order AS placed LEFT JOIN shop_orderline AS line ON line.order_id = placed.id
    GROUP BY placed.token
"""
FORGET = """
    WITH old AS MATERIALIZED (
        SELECT id FROM shop_order WHERE placed < now() - make_interval(secs => %s)
    ), lines AS (
        DELETE FROM shop_orderline WHERE order_id IN (SELECT id FROM old)
    )
    DELETE FROM shop_order WHERE id IN (SELECT id FROM old)
"""


@dataclass(slots=True)
class Account:
    """The orders of one application: pure, the rows are handed in."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    doubled: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def acknowledge(self, token: str) -> None:
        """The application has said that this order is saved."""
        self.acknowledged[token] = time.monotonic()

    def compare(self, due: Iterable[str], rows: Mapping[str, tuple[int, int]]) -> None:
        """Compare what was acknowledged before the rows were read with the rows."""
        self.doubled |= {token for token, (orders, _) in rows.items() if orders > 1}
        for token in due:
            orders, lines = rows.get(token, (0, 0))
            if not (orders and lines):
                self.lost.add(token)

    def due(self) -> list[str]:
        """The orders to look for now; older ones are watched no more."""
        until = time.monotonic() - WATCHED
        self.acknowledged = {
            token: at for token, at in self.acknowledged.copy().items() if at > until
        }
        return list(self.acknowledged)
