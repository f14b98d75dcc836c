"""A plugin of pytest for suites that call ``settings.configure()`` themselves."""

from __future__ import annotations

from typing import Any

from django.conf import LazySettings

from scripts.suites.databases import changed

_configure = LazySettings.configure


def _on_this_server(self: LazySettings, *args: Any, DATABASES: Any, **given: Any) -> None:
    _configure(self, *args, DATABASES=changed(DATABASES), **given)


LazySettings.configure = _on_this_server  # type: ignore[method-assign,assignment]
