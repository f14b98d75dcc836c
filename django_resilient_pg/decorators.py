"""Which views a request may be replayed for; read by ``middleware.RequestRetryMiddleware``."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

_MARK: Final = "_django_resilient_pg_replayable"
# More wrappers than anybody has around a view; one that is around itself must not keep us for ever.
_DEEPEST: Final = 100


def replayable(view: View) -> View:
    """Allow a view to be replayed whatever the request's method.

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

    False if any mark on the way to what answers says so, whatever the others say.

    Args:
        view: as the URL resolver has it.
        method: of the request. Of a class-based view (Django's and DRF's) the method that answers
            it counts as well as the view, its ``dispatch()``, its class and what that inherits; of
            another object its class, what that inherits and its ``__call__()``.
    """
    owner = getattr(view, "view_class", None) or getattr(view, "cls", None)
    places = [view]
    if owner is not None:
        places += [
            *owner.__mro__,
            getattr(owner, "dispatch", None),
            _answering(view, owner, method),
        ]
    elif not isinstance(view, (types.FunctionType, types.MethodType)):
        # An object that can be called, such as a syndication feed.
        places += [*type(view).__mro__, type(view).__call__]
    marks = {vars(one).get(_MARK) for place in places for one in _layers(place)}
    return False if False in marks else (True if True in marks else None)


def _answering(view: Any, owner: Any, method: str | None) -> Any:
    """The method of a class that answers requests with this method of HTTP."""
    name = (method or "").lower()
    # DRF's viewsets say which of their methods answers which of HTTP's.
    actions = getattr(view, "actions", None) or {}
    found = getattr(owner, actions.get(name, name) or "_", None)
    if found is None and name == "head":  # as both have it
        found = getattr(owner, actions.get("get", "get"), None)
    return found


def _layers(place: Any) -> Iterator[Any]:
    """A function, and those it was wrapped around."""
    for _ in range(_DEEPEST):
        if not hasattr(place, "__dict__"):
            return
        yield place
        if isinstance(place, functools.partial):
            place = place.func
        elif isinstance(place, type):
            return  # a class has inherited what is below, not wrapped it
        elif hasattr(place, "__wrapped__"):
            place = place.__wrapped__
        else:
            place = _below_api_view(place)


def _below_api_view(handler: Any) -> Any:
    """The function that DRF's ``@api_view`` was put on, which only its handler's closure knows."""
    code = getattr(handler, "__code__", None)
    if code is None or getattr(handler, "__module__", None) != "rest_framework.decorators":
        return None
    cells = dict(zip(code.co_freevars, handler.__closure__ or (), strict=True))
    return cells["func"].cell_contents if "func" in cells else None
