"""A request as it was before its view, to be put back before it is run again."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any, Final

from django.core.files.uploadedfile import InMemoryUploadedFile
from django.db.models import Model
from django.http import HttpRequest
from django.utils.datastructures import ImmutableList
from django.utils.functional import LazyObject

_CONTAINERS: Final = frozenset({dict, list, set})
# Most attributes are one of these, and hold nothing.
_PLAIN: Final = frozenset({str, bool, int, type(None)})
_FORM: Final = ("_post", "_files", "_read_started", "_upload_handlers")
_CACHE: Final = "_session_cache"

#: A container, or an object by its attributes, and what it held.
Kept = tuple[Any, Any]


class Snapshot:
    """Attributes, session and messages of a request. Taken for every request, so it is shallow.

    Attributes are bound again as they were. What they hold is put back where it is a dict, a list,
    a set, a lazy object (``request.user``) or a model instance; of other objects only the binding.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._attributes = attributes = dict(request.__dict__)
        self._session_key = _session_key(attributes)
        self._kept: list[Kept] = []
        for name, value in attributes.items():
            kind = type(value)
            if kind in _PLAIN or name in {"session", "environ"}:  # environ is META once more
                continue
            if kind in _CONTAINERS:
                self._kept.append((value, value.copy()))
            elif name == "_messages" or isinstance(value, (LazyObject, Model)):
                self._kept += _of_object(value)
        self._session = _of_session(attributes.get("session"))

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
        for value, before in self._kept:
            _put_back(value, before)
        if self._session:
            # Copied again: there may be a third attempt.
            _put_back(self._attributes["session"], _with_own_cache(self._session))
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


def _put_back(value: Any, before: Any) -> None:
    target = value if type(value) in _CONTAINERS else value.__dict__
    target.clear()
    if type(target) is list:
        target.extend(before)
    else:
        target.update(before)


def _of_object(value: Any) -> Iterator[Kept]:
    """Its attributes, their containers, what a lazy object stands for, and inner storages."""
    before = dict(value.__dict__)
    yield value, before
    yield from ((one, one.copy()) for one in before.values() if type(one) in _CONTAINERS)
    if isinstance(before.get("_wrapped"), Model):
        yield from _of_object(before["_wrapped"])
    for one in before.get("storages", ()):  # of messages
        yield from _of_object(one)


def _of_session(session: Any) -> dict[str, Any]:
    """A session is loaded again from its store, unless a middleware had changed it already."""
    before = dict(getattr(session, "__dict__", {}))
    cache = before.pop(_CACHE, None)
    if cache is not None and before.get("modified"):
        before[_CACHE] = copy.deepcopy(cache)
    return before


def _with_own_cache(session: dict[str, Any]) -> dict[str, Any]:
    return session | {_CACHE: copy.deepcopy(session[_CACHE])} if _CACHE in session else session
