"""What Django, the engine, the pool or the driver will not take of an entry of DATABASES.

Everything is tried as they do it, in their order; nothing connects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper

from ...conf.options import of_entry
from ...conf.secrets import scrubbed, slip
from .tls_refusals import sentence

_FACTORIES: Final = ("connection_factory", "cursor_factory", "row_factory")


def parameters(wrapper: BaseDatabaseWrapper) -> tuple[dict[str, Any], str]:
    """Return what goes to the driver, and why it does not: a sentence or ""."""
    params: dict[str, Any] = {}
    for setting, look in _LOOKS.items():
        try:
            found = look(wrapper)
            params = found if isinstance(found, dict) else params
        except ImproperlyConfigured as error:  # says itself which setting is wrong
            return {}, _told(str(error), wrapper)
        except Exception as error:  # what a value of a wrong type leads to, whatever it is
            return {}, _told(f"{setting} is refused: {cause(error)}", wrapper)
    return params, ""


def sqlite_name(path: object) -> str:
    """What is wrong with the NAME that ``startproject`` leaves behind."""
    return (
        f'NAME is "{path}", the path of an SQLite file as startproject sets it: set NAME to the '
        "name of the PostgreSQL database."
    )


def cause(error: BaseException) -> str:
    """What an error says, and its class."""
    # A KeyError shows its message as a key.
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{' '.join(str(said).split()).rstrip('.')} ({type(error).__name__})"


def _told(text: str, wrapper: BaseDatabaseWrapper) -> str:
    return sentence(scrubbed(text, wrapper.settings_dict))


def _names(wrapper: BaseDatabaseWrapper) -> None:
    """They go to the driver as the names of arguments."""
    for name in _options(wrapper):
        if not isinstance(name, str):
            raise TypeError(f"a key is of the type {type(name).__name__}, not a text")


def _database(wrapper: BaseDatabaseWrapper) -> None:
    name = wrapper.settings_dict["NAME"]
    if isinstance(name, os.PathLike):
        raise ImproperlyConfigured(sqlite_name(os.fspath(name)))
    len(name or "")  # as Django does it


def _isolation(wrapper: BaseDatabaseWrapper) -> None:
    """Django looks at it only when it connects."""
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    if "isolation_level" in (options := _options(wrapper)):
        try:
            IsolationLevel(options["isolation_level"])
        except ValueError as error:
            known = ", ".join(each.name for each in IsolationLevel)
            raise ValueError(f"{error}, which has {known}") from None


def _role(wrapper: BaseDatabaseWrapper) -> None:
    role = _options(wrapper).get("assume_role")
    if role and not isinstance(role, str):
        raise TypeError(f"it is of type {type(role).__name__}, not a string")
    if role and (wrong := slip('OPTIONS["assume_role"]', role)):
        raise ImproperlyConfigured(wrong)


def _factory(name: str) -> Callable[[BaseDatabaseWrapper], None]:
    def look(wrapper: BaseDatabaseWrapper) -> None:
        given = _options(wrapper).get(name)
        if given is not None and not callable(given):
            kind = type(given).__name__
            raise TypeError(f"a value of the type {kind} cannot be called, give the class itself")

    return look


def _pool(wrapper: BaseDatabaseWrapper) -> None:
    """Made and thrown away: the application's is left alone, and none stays behind."""
    if not _options(wrapper).get("pool"):
        return
    twin: Any = type(wrapper)(wrapper.settings_dict, wrapper.alias)
    twin._connection_pools = {}  # in the place of the one that all connections share
    if twin.pool is not None:
        twin.pool.close()


def _options(wrapper: BaseDatabaseWrapper) -> Mapping[Any, Any]:
    options: Mapping[Any, Any] = wrapper.settings_dict["OPTIONS"]
    return options


# By the setting that is to blame where the error does not say it.
_LOOKS: Final[dict[str, Callable[[BaseDatabaseWrapper], object]]] = {
    "The entry": lambda wrapper: of_entry(wrapper.alias, wrapper.settings_dict),
    "OPTIONS": _names,
    "NAME": _database,
    "TIME_ZONE": lambda wrapper: wrapper.timezone,  # made of the name at its first use
    "This entry": lambda wrapper: wrapper.get_connection_params(),
    'OPTIONS["isolation_level"]': _isolation,
    'OPTIONS["assume_role"]': _role,
    **{f'OPTIONS["{name}"]': _factory(name) for name in _FACTORIES},
    'OPTIONS["pool"]': _pool,
}
