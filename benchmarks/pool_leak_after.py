"""What the option ``pool_leak_after`` costs, for each connection borrowed and for each statement.

Run: ``python -m benchmarks.pool_leak_after`` (psycopg 3). What the option adds is measured by
itself: beside a round trip it is too little to be seen. No server is needed. The best of some
rounds counts, so that a busy machine changes little. Exits with status 1 above ``BOUNDS``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

ROUNDS, CALLS = 15, 2_000
#: Microseconds: the most that may be added.
BOUNDS = {"borrow in the ORM": 25.0, "borrow, deepest": 100.0, "statement": 2.0}
# Frames between an application's code and the pool, when a queryset is evaluated (Django 6.1).
IN_THE_ORM = 22

# As if it stood in Django: the innermost place outside of Django is what is looked for.
STACK = """
def best(deep, call, rounds, calls):
    if deep:
        return best(deep - 1, call, rounds, calls)
    found = []
    for _ in range(rounds):
        began = clock()
        for _ in range(calls):
            call()
        found.append((clock() - began) / calls)
    return min(found) * 1e6
"""


class Borrowed:
    """What notes a statement, as a pool's connection does."""

    def __init__(self, loan: Any) -> None:
        self.loan = loan

    def note_statement(self, text: object) -> None:
        if hasattr(self.loan, "text"):
            self.loan.text = text


class Cursor:
    """A cursor that sends nothing."""

    connection: Any

    def execute(self, query: object, params: object = None) -> None:
        pass


def measure() -> dict[str, float]:
    """Microseconds for each."""
    from django_resilient_pg.pool import loans

    names: dict[str, Any] = {"clock": perf_counter}
    exec(compile(STACK, f"{loans._DJANGO}measured.py", "exec"), names)

    def timed(call: Callable[[], object], deep: int = 0) -> float:
        return float(names["best"](deep, call, ROUNDS, CALLS))

    class Watched(loans._Watched, Cursor):
        connection = Borrowed(loans.Loan())

    plain, watched = Cursor(), Watched()
    added = timed(lambda: watched.execute("", None)) - timed(lambda: plain.execute("", None))
    return {
        "borrow in the ORM": timed(loans.Loan, IN_THE_ORM),
        "borrow, deepest": timed(loans.Loan, 2 * loans._DEEPEST),
        "statement": added,
    }


def main() -> int:
    """Print what was measured; 1 if a bound was missed."""
    found = measure()
    for name, bound in BOUNDS.items():
        print(f"{name:20}{found[name]:>7.1f} us (at most {bound:g})")
    missed = [name for name, bound in BOUNDS.items() if found[name] > bound]
    if missed:
        print(f"pool_leak_after: above its bound: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
