"""A request as it was before its view, to be put back before it is replayed."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

from django.core.files.uploadedfile import InMemoryUploadedFile
from django.db.models import Model, QuerySet
from django.db.models.base import ModelState
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.datastructures import ImmutableList
from django.utils.functional import LazyObject

_CONTAINERS: Final = (dict, list, set)
# Most attributes are one of these, and hold nothing.
_PLAIN: Final = frozenset({str, bool, int, type(None)})
_FORM: Final = ("_post", "_files", "_read_started", "_upload_handlers")
_CACHE: Final = "_session_cache"
# Of the server, and large: what these hold is not looked into.
_FLAT: Final = frozenset({"META", "scope"})
# Asked of an object's type: a lazy object that is asked itself for its class is evaluated.
_FOLLOWED: Final = (*_CONTAINERS, LazyObject, Model, ModelState, QuerySet)

#: A container, or an object by its attributes, and what it held.
Kept = tuple[Any, Any]


class Snapshot:
    """Attributes, session and messages of a request. Taken for every request.

    Attributes are bound again as they were. What they hold is put back where it is a dict, a list,
    a set or of a class derived from one, a lazy object (``request.user``), a model instance or a
    QuerySet, and what these hold of the kind; of other objects only the binding. Beside the
    request, its language and time zone are put back.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._attributes = attributes = dict(request.__dict__)
        self._session_key = _session_key(attributes)
        self._kept: list[Kept] = []
        seen: set[int] = set()
        for name, value in attributes.items():
            kind = type(value)
            if kind in _PLAIN or name in {"session", "environ"}:  # environ is META once more
                continue
            if name in _FLAT:
                self._kept.append((value, value.copy()))
            elif name == "_messages" or issubclass(kind, _FOLLOWED):
                self._kept += _held_by(value, seen)
                for one in getattr(value, "storages", ()) if name == "_messages" else ():
                    self._kept += _held_by(one, seen)
        self._form: dict[str, Any] = {}
        self._session = _of_session(attributes.get("session"))
        self._language = translation.get_language()
        self._timezone = timezone.get_current_timezone()

    def keep_form(self) -> None:
        """Keep a form that was parsed from the stream before the view, as CSRF protection does.

        Not if it has files too large for memory: those are streams.
        """
        now = self._request.__dict__
        parsed = isinstance(now.get("_upload_handlers"), ImmutableList) and "_files" in now
        if parsed and all(isinstance(one, InMemoryUploadedFile) for one in self._files(now)):
            self._form = {name: now[name] for name in _FORM if name in now} | _copied(now)

    def body_is_there(self) -> bool:
        """Whether what has been read of the body can be read again."""
        now = self._request.__dict__
        if "_body" in now or not now.get("_read_started"):
            return True
        before = self._attributes | self._form
        files = self._files(before)
        kept = "_files" in before
        in_memory = all(isinstance(one, InMemoryUploadedFile) for one in files)
        return kept and in_memory and not any(one.closed for one in files)

    def session_was_saved(self) -> bool:
        """Whether the attempt gave the session another key, or none: its store has changed then.

        An expired session loses its key by being looked for; one that was flushed is modified, too.
        """
        now = self._request.__dict__
        key = _session_key(now)
        if key is None and not getattr(now.get("session"), "modified", False):
            return False
        return key != self._session_key

    def restore(self) -> None:
        """Put everything back; a body that was read stays readable."""
        now = self._request.__dict__
        body = now.get("_body")
        now.clear()
        now.update(self._attributes)
        if self._form:
            now.update(self._form | _copied(self._form))
        for value, before in self._kept:
            _put_back(value, before)
        if self._session:
            # Copied again: there may be a third attempt.
            _put_back(self._attributes["session"], _with_own_cache(self._session))
        if body is not None:
            now.update(_body=body, _stream=io.BytesIO(body))
            for name in ("_post", "_files"):
                now.pop(name, None)  # parsed again
        for one in self._files(now):
            one.seek(0)
        self._activate()

    def _activate(self) -> None:
        """Without the language of its URL, a request would find no view under i18n_patterns()."""
        if translation.get_language() != self._language:
            if self._language:
                translation.activate(self._language)
            else:
                translation.deactivate_all()
        if timezone.get_current_timezone() is not self._timezone:
            timezone.activate(self._timezone)

    @staticmethod
    def _files(attributes: dict[str, Any]) -> list[Any]:
        files = attributes.get("_files")
        return [] if files is None else [one for _, every in files.lists() for one in every]


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copies of a parsed form, which its view may change."""
    form, files = attributes["_post"].copy(), attributes["_files"].copy()
    form._mutable = False
    return {"_post": form, "_files": files}


def _session_key(attributes: dict[str, Any]) -> object:
    return getattr(attributes.get("session"), "session_key", None)


def _container(kind: type) -> Any:
    """Which container a class is derived from: whose methods to use, or ``None``.

    Its own may do something else: those of a QueryDict refuse to change it.
    """
    if kind in _CONTAINERS:
        return kind
    # Before dict, whose methods would leave its order behind.
    return next((one for one in (OrderedDict, *_CONTAINERS) if issubclass(kind, one)), None)


def _put_back(value: Any, before: Any) -> None:
    container = _container(type(value))
    target = value if container else value.__dict__
    container = container or dict
    container.clear(target)
    if container in {list, set}:
        (list.extend if container is list else set.update)(target, before)
        return
    for name, one in before.items():
        container.__setitem__(target, name, one)


def _held_by(value: Any, seen: set[int]) -> Iterator[Kept]:
    """What a container or an object holds, and what those in it do."""
    if id(value) in seen:
        return
    seen.add(id(value))
    kind, container = type(value), _container(type(value))
    before = _copy_of(value, container) if container else dict(value.__dict__)
    yield value, before
    if container and kind is not container and (attributes := getattr(value, "__dict__", None)):
        yield from _held_by(attributes, seen)  # of a QueryDict: whether it may be changed
    for one in before.values() if isinstance(before, dict) else before:
        kind = type(one)
        if kind not in _PLAIN and issubclass(kind, _FOLLOWED):
            yield from _held_by(one, seen)


def _copy_of(value: Any, container: Any) -> Any:
    return container(value) if container in {list, set} else dict(container.items(value))


def _of_session(session: Any) -> dict[str, Any]:
    """A session is loaded again from its store, unless a middleware had changed it already."""
    before = dict(getattr(session, "__dict__", {}))
    cache = before.pop(_CACHE, None)
    if cache is not None and before.get("modified"):
        before[_CACHE] = copy.deepcopy(cache)
    return before


def _with_own_cache(session: dict[str, Any]) -> dict[str, Any]:
    return session | {_CACHE: copy.deepcopy(session[_CACHE])} if _CACHE in session else session
