"""An engine that connects in a way of its own, which nobody else knows."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "host": "by-the-library.invalid"}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        host = self.settings_dict["HOST"]
        return super().get_new_connection({**conn_params, "host": host})
