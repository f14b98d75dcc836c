"""Which views a request may be run again for; read by ``middleware.RequestRetryMiddleware``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

_MARK: Final = "_django_resilient_pg_replayable"


def replayable(view: View) -> View:
    """Allow a view to be run again whatever the request's method.

    Only while the request has committed nothing, written nothing in autocommit and run no
    ``on_commit`` hook. What the view does outside of the database it then does again.
    """
    setattr(view, _MARK, True)
    return view


def not_replayable(view: View) -> View:
    """Never run a view again, because of what it does outside of the database."""
    setattr(view, _MARK, False)
    return view


def marked(view: Any) -> bool | None:
    """Whether a view was decorated: True, False, or ``None`` for neither.

    Looks at the function, and at the class of a class-based view (Django's and DRF's).
    """
    for place in (view, getattr(view, "view_class", None), getattr(view, "cls", None)):
        found = getattr(place, _MARK, None)
        if found is not None:
            return bool(found)
    return None
