"""Between environment variables and an entry of Django's ``DATABASES``, in both directions.

Pure: :mod:`testproject.settings` reads with :func:`database`, the demo writes with
:func:`variables` what a child process reads.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

PREFIX = "DATABASE_"
DEFAULTS = {
    "ENGINE": "django_resilient_pg",
    "HOST": "localhost",
    "PORT": "5432",
    "NAME": "app",
    "USER": "app",
    "PASSWORD": "",
}
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


def flag(name: str, text: str) -> bool:
    """``true``/``false`` and their usual spellings; ImproperlyConfigured for anything else."""
    lowered = text.strip().lower()
    if lowered in TRUE | FALSE:
        return lowered in TRUE
    msg = f'{name} is "{text}"; write "true" or "false".'
    raise ImproperlyConfigured(msg)


def age(name: str, text: str) -> int | None:
    """Seconds as CONN_MAX_AGE takes them; ``none`` keeps connections for ever."""
    if text.strip().lower() == "none":
        return None
    if text.strip().isdecimal():
        return int(text)
    msg = f'{name} is "{text}"; write whole seconds, 0 or more, or "none" for no limit.'
    raise ImproperlyConfigured(msg)


def json_object(name: str, text: str) -> dict[str, Any]:
    """A JSON object; ImproperlyConfigured otherwise, without the text: it may hold a secret."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    msg = f'{name} is not a JSON object; write something like {{"read_retries": 3}}.'
    raise ImproperlyConfigured(msg)


def database(environ: Mapping[str, str]) -> dict[str, Any]:
    """The entry of ``DATABASES`` in ``environ``; a variable that is empty counts as unset."""
    given = {
        name.removeprefix(PREFIX): text
        for name, text in environ.items()
        if name.startswith(PREFIX) and text
    }
    entry: dict[str, Any] = {key: given.get(key, default) for key, default in DEFAULTS.items()}
    entry["CONN_MAX_AGE"] = age(f"{PREFIX}CONN_MAX_AGE", given.get("CONN_MAX_AGE", "60"))
    for key, default in (("CONN_HEALTH_CHECKS", "true"), ("ATOMIC_REQUESTS", "false")):
        entry[key] = flag(PREFIX + key, given.get(key, default))
    entry["OPTIONS"] = json_object(f"{PREFIX}OPTIONS", given.get("OPTIONS", "{}"))
    if "SSLROOTCERT" in given:
        entry["OPTIONS"] = {
            "sslmode": "verify-full",
            "sslrootcert": given["SSLROOTCERT"],
            **entry["OPTIONS"],
        }
    return entry


def variables(entry: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables from which :func:`database` makes ``entry`` again."""
    texts = {key: str(entry[key]) for key in DEFAULTS if key in entry}
    if "CONN_MAX_AGE" in entry:
        seconds = entry["CONN_MAX_AGE"]
        texts["CONN_MAX_AGE"] = "none" if seconds is None else str(seconds)
    for key in ("CONN_HEALTH_CHECKS", "ATOMIC_REQUESTS"):
        if key in entry:
            texts[key] = str(entry[key]).lower()
    texts["OPTIONS"] = json.dumps(entry.get("OPTIONS", {}))
    return {PREFIX + key: text for key, text in texts.items()}
