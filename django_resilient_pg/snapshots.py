"""A request as it was before its view, to be put back before it is run again."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any, Final

from django.core.files.uploadedfile import InMemoryUploadedFile
from django.db.models import Model
from django.http import HttpRequest
from django.utils.datastructures import ImmutableList
from django.utils.functional import LazyObject, empty

_CONTAINERS: Final = frozenset({dict, list, set})
_FORM: Final = ("_post", "_files", "_read_started", "_upload_handlers")
_CACHE: Final = "_session_cache"

Undo = Callable[[], None]


class Snapshot:
    """Attributes, session and messages of a request. Taken for every request, so it is shallow.

    Attributes are bound again as they were. What they hold is put back where it is a dict, a list,
    a set, a lazy object (``request.user``) or a model instance; of other objects only the binding.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._attributes = dict(request.__dict__)
        self._undo = list(_undos(self._attributes))
        self._session_key = _session_key(self._attributes)

    def keep_form(self) -> None:
        """Keep a form that was parsed from the stream before the view, as CSRF protection does.

        Not if it has files too large for memory: those are streams.
        """
        now = self._request.__dict__
        parsed = isinstance(now.get("_upload_handlers"), ImmutableList) and "_files" in now
        if parsed and all(isinstance(one, InMemoryUploadedFile) for one in self._files(now)):
            self._attributes.update({name: now[name] for name in _FORM if name in now})

    def body_is_there(self) -> bool:
        """Whether what has been read of the body can be read again."""
        now = self._request.__dict__
        if "_body" in now or not now.get("_read_started"):
            return True
        kept = "_files" in self._attributes
        return kept and not any(one.closed for one in self._files(self._attributes))

    def session_was_saved(self) -> bool:
        """Whether the attempt gave the session another key: its store has changed then.

        ``None`` does not count: an expired session loses its key by being looked for.
        """
        return _session_key(self._request.__dict__) not in {None, self._session_key}

    def restore(self) -> None:
        """Put everything back; a body that was read stays readable."""
        now = self._request.__dict__
        body = now.get("_body")
        now.clear()
        now.update(self._attributes)
        for undo in self._undo:
            undo()
        if body is not None:
            now.update(_body=body, _stream=io.BytesIO(body))
        for one in self._files(now):
            one.seek(0)

    @staticmethod
    def _files(attributes: dict[str, Any]) -> list[Any]:
        files = attributes.get("_files")
        return [] if files is None else [one for _, every in files.lists() for one in every]


def _session_key(attributes: dict[str, Any]) -> object:
    return getattr(attributes.get("session"), "session_key", None)


def _undos(attributes: dict[str, Any]) -> Iterator[Undo]:
    for name, value in attributes.items():
        if name == "session":
            yield _undo_session(value)
        elif name == "_messages":
            yield _undo_object(value)
            yield from (_undo_object(one) for one in getattr(value, "storages", ()))
        elif type(value) in _CONTAINERS:
            yield _undo_container(value)
        elif isinstance(value, LazyObject):
            yield from _undo_lazy(value)
        elif isinstance(value, Model):
            yield _undo_object(value)


def _undo_container(value: Any) -> Undo:
    before = value.copy()
    put = value.extend if type(value) is list else value.update

    def undo() -> None:
        value.clear()
        put(before)

    return undo


def _undo_object(value: Any) -> Undo:
    before = dict(value.__dict__)
    inner = [_undo_container(one) for one in before.values() if type(one) in _CONTAINERS]

    def undo() -> None:
        value.__dict__.clear()
        value.__dict__.update(before)
        for one in inner:
            one()

    return undo


def _undo_lazy(value: Any) -> Iterator[Undo]:
    """An object that the view was the first to need is made anew; else it is put back."""
    wrapped = value.__dict__.get("_wrapped", empty)
    yield lambda: value.__dict__.update(_wrapped=wrapped)
    if isinstance(wrapped, Model):
        yield _undo_object(wrapped)


def _undo_session(value: Any) -> Undo:
    """A session is loaded again from its store, unless a middleware had changed it already."""
    if not hasattr(value, "__dict__"):
        return lambda: None
    before = dict(value.__dict__)
    changed = before.get("modified", False)
    cache = copy.deepcopy(before.get(_CACHE)) if changed else None

    def undo() -> None:
        value.__dict__.clear()
        value.__dict__.update(before)
        value.__dict__.pop(_CACHE, None)
        if changed and cache is not None:
            value.__dict__[_CACHE] = copy.deepcopy(cache)

    return undo
