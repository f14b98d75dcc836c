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

    For functions, for classes, and for methods of classes (``post``, an action of a viewset).
    """
    setattr(view, _MARK, True)
    return view


def not_replayable(view: View) -> View:
    """Never run a view again, because of what it does outside of the database."""
    setattr(view, _MARK, False)
    return view


def marked(view: Any, method: str | None = None) -> bool | None:
    """Whether a view was decorated: True, False, or ``None`` for neither.

    Args:
        view: as the URL resolver has it.
        method: of the request. Of a class-based view (Django's and DRF's) the method that answers
            it comes first, then the view, then the class.
    """
    owner = getattr(view, "view_class", None) or getattr(view, "cls", None)
    name = (method or "").lower()
    # DRF's viewsets say which of their methods answers which of HTTP's.
    name = (getattr(view, "actions", None) or {}).get(name, name)
    for place in (getattr(owner, name, None) if name else None, view, owner):
        found = getattr(place, _MARK, None)
        if found is not None:
            return bool(found)
    return None
