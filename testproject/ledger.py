"""Accounting of a load: what was attempted, what the application was told, what the database holds.

Pure: no Django, no database. A :class:`Ledger` belongs to one thread; :func:`judge` compares all of
them with the rows an independent connection counted.
"""

import enum
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

K = TypeVar("K")
MOST_ERRORS = 30  # texts of errors in a result


class Kind(enum.StrEnum):
    """What an operation is to the engine."""

    READ = "read"  # in autocommit
    WRITE = "write"  # one row, in autocommit
    TRANSACTION = "transaction"  # atomic(): two rows with one token, and reads


@dataclass(frozen=True, slots=True)
class Found:
    """Rows per token in each table, as an independent connection counted them after the load."""

    movements: Mapping[str, int]  # written in autocommit
    orders: Mapping[str, int]  # first row of a transaction
    lines: Mapping[str, int]  # second row of a transaction


class Ledger:
    """What one thread did. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.kind = Kind.READ  # of the operation under way, for count_statement()
        self.statements: Counter[Kind] = Counter()
        self.operations: Counter[Kind] = Counter()
        self.failed: Counter[Kind] = Counter()
        self.errors: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()  # of all errors, by the name of their class
        self.slowest = 0.0
        # Per token whether the write was acknowledged: returned without an exception.
        self.acknowledged: dict[Kind, dict[str, bool]] = {Kind.WRITE: {}, Kind.TRANSACTION: {}}

    def count_statement(self) -> None:
        self.statements[self.kind] += 1

    def attempt(self, kind: Kind, work: Callable[[], None], token: str | None = None) -> bool:
        """Run ``work`` and return whether it succeeded; ``token`` marks the rows it writes."""
        self.kind = kind
        self.operations[kind] += 1
        if token is not None:
            self._enter(kind, token)
        start = self.clock()
        try:
            work()
        except Exception as error:  # whatever reaches an application counts
            self.failed[kind] += 1
            self.errors[first_line(error)] += 1
            self.classes[type(error).__name__] += 1
            return False
        finally:
            self.slowest = max(self.slowest, self.clock() - start)
        if token is not None:
            self.acknowledged[kind][token] = True
        return True

    def _enter(self, kind: Kind, token: str) -> None:
        if token in self.acknowledged[kind]:
            msg = f"token {token} is used for a second {kind}: nothing could be told from its rows"
            raise ValueError(msg)
        self.acknowledged[kind][token] = False


def first_line(error: BaseException) -> str:
    """Class and first line of an error, short enough for a report."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


@dataclass(frozen=True, slots=True)
class Result:
    """What a load came to. Counts are of operations, except ``statements``; times in seconds."""

    engine: str
    seconds: float
    threads: int
    statements: dict[str, int]  # SQL statements per kind of operation
    operations: dict[str, int]
    failed_reads: int  # an exception (or a wrong answer) reached the application
    failed_transactions: int  # raised: rolled back, or lost during COMMIT
    write_errors: int  # autocommit writes that raised: their outcome is unknown to the application
    landed: int  # writes and transactions that raised although the database has them
    lost: int  # acknowledged, but not in the database
    doubled: int  # in the database more than once
    half_committed: int  # transactions of which the database has one row without the other
    slowest: float
    hung: int = 0  # threads that had not come back long after the end
    errors: dict[str, int] = field(default_factory=dict)  # the most frequent ones, by text
    classes: dict[str, int] = field(default_factory=dict)  # all of them, by class

    @property
    def total_statements(self) -> int:
        return sum(self.statements.values())

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    ledgers: Iterable[Ledger], found: Found, *, engine: str, seconds: float, hung: int = 0
) -> Result:
    """Compare what the application was told with what the database holds."""
    ledgers = list(ledgers)
    writes = _merge(ledger.acknowledged[Kind.WRITE] for ledger in ledgers)
    transactions = _merge(ledger.acknowledged[Kind.TRANSACTION] for ledger in ledgers)
    outcomes = Counter(_write_outcome(found, *entry) for entry in writes.items())
    outcomes += Counter(_transaction_outcome(found, *entry) for entry in transactions.items())
    failed = _sum(ledger.failed for ledger in ledgers)
    return Result(
        engine=engine,
        seconds=seconds,
        threads=len(ledgers),
        statements=_texts(_sum(ledger.statements for ledger in ledgers)),
        operations=_texts(_sum(ledger.operations for ledger in ledgers)),
        failed_reads=failed[Kind.READ],
        failed_transactions=failed[Kind.TRANSACTION],
        write_errors=failed[Kind.WRITE],
        landed=outcomes["landed"],
        lost=outcomes["lost"],
        doubled=outcomes["doubled"],
        half_committed=outcomes["half"],
        slowest=max((ledger.slowest for ledger in ledgers), default=0.0),
        hung=hung,
        errors=dict(_sum(ledger.errors for ledger in ledgers).most_common(MOST_ERRORS)),
        classes=dict(_sum(ledger.classes for ledger in ledgers)),
    )


def _write_outcome(found: Found, token: str, acknowledged: bool) -> str:
    return _outcome(found.movements.get(token, 0), acknowledged)


def _transaction_outcome(found: Found, token: str, acknowledged: bool) -> str:
    orders, lines = found.orders.get(token, 0), found.lines.get(token, 0)
    if bool(orders) != bool(lines):
        return "half"
    return _outcome(max(orders, lines), acknowledged)


def _outcome(rows: int, acknowledged: bool) -> str:
    if rows > 1:
        return "doubled"
    if rows:
        return "stored" if acknowledged else "landed"
    return "lost" if acknowledged else "rolled back"


def _merge(tokens: Iterable[Mapping[str, bool]]) -> dict[str, bool]:
    merged: dict[str, bool] = {}
    for each in tokens:
        if shared := merged.keys() & each.keys():
            msg = (
                f"token {min(shared)} was used by two threads: nothing could be told from its rows"
            )
            raise ValueError(msg)
        merged |= each
    return merged


def _sum(counters: Iterable[Counter[K]]) -> Counter[K]:
    return sum(counters, Counter())


def _texts(counts: Mapping[Kind, int]) -> dict[str, int]:
    return {kind.value: counts.get(kind, 0) for kind in Kind}
