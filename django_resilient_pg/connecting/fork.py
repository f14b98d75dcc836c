"""What a forked child does first: release its parent's connections.

A connection used by two processes does not only fail: in plain text it silently returned another
query's rows in 12 to 32 % of queries. So in the child every inherited socket is replaced by a dead
one, under the same number. Nothing that is done there to the driver's objects, by anybody, can then
reach the parent's session: not a query, not the Terminate message of ``close()``. The next liveness
check finds the connection lost and replaces it as any other; that is all.

Imported with the first connection: before it there is nothing to release. What forks through
Python or calls its hooks (``os.fork``, multiprocessing, billiard, gunicorn) comes here at once; the
child of what forks in C (uWSGI) when it first uses a connection or a pool (:mod:`.process`).
"""

from __future__ import annotations

import contextlib
import sys
import threading

from django.dispatch import Signal

from ..driver.link import LINKS
from ..driver.process import in_child
from ..policy.token_bucket import BUCKET
from ..state import shared, unit_of_work


@in_child
def let_go() -> None:
    """In the child: part from the parent's sessions, and from locks its other threads held."""
    for link in list(LINKS):
        # Whatever goes wrong with one of them must not keep us from the others.
        with contextlib.suppress(Exception):
            link.disown()
    BUCKET.renew_lock()
    shared.renew_locks()
    signals = sys.modules.get("django_resilient_pg.signals")  # imported by receivers and losses
    for signal in () if signals is None else vars(signals).values():
        if isinstance(signal, Signal):
            signal.lock = threading.Lock()
    # The units of the parent's other threads will never end here.
    unit = unit_of_work.UNIT.get()
    unit_of_work.UNDER_WAY[:] = [] if unit is None else list(unit.line())
