"""What the results say of a fault, in one place for all who read them. Pure."""

from __future__ import annotations

from typing import Any, Final

#: In the order of the page.
FAULTS: Final = (
    "killed while idle",
    "all pooled sessions dead",
    "killed every 100 ms",
    "restart",
    "failover",
    "database down",
    "silent drop",
)
FAILED: Final = ("failed_requests", "failed_reads", "failed_writes", "failed_transactions")


def failed(came: dict[str, Any]) -> int:
    """How many operations ended in an error, or did not end."""
    return sum(int(came[name]) for name in (*FAILED, "hung"))
