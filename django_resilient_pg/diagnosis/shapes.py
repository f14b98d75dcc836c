"""The shapes within the JSON report, written out so that a change of it is noticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

Shape = dict[str, Any]

TEXT: Final[Shape] = {"type": "string"}
TEXT_OR_NULL: Final[Shape] = {"type": ["string", "null"]}
NUMBER: Final[Shape] = {"type": ["number", "null"]}
FLAG: Final[Shape] = {"type": "boolean"}
FLAG_OR_NULL: Final[Shape] = {"type": ["boolean", "null"]}
ANY: Final[Shape] = {"type": "object"}
ANY_OR_NULL: Final[Shape] = {"type": ["object", "null"]}


def fixed(properties: Mapping[str, object], optional: Iterable[str] = ()) -> Shape:
    """An object of these keys and no others."""
    required = sorted(set(properties) - set(optional))
    own = {"type": "object", "properties": dict(properties), "required": required}
    return {**own, "additionalProperties": False}


def each(items: Mapping[str, object]) -> Shape:
    """A list."""
    return {"type": "array", "items": dict(items)}


def nullable(shape: Mapping[str, object]) -> Shape:
    """That, or null."""
    return {"anyOf": [dict(shape), {"type": "null"}]}


def _all(shape: Shape, names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), shape)


_PAIRS: Final = each(each(TEXT))
_ENDPOINT: Final = nullable(fixed({"address": TEXT, "port": NUMBER}))
_LIMIT: Final = fixed({"seconds": NUMBER, "source": TEXT})
_PROJECT: Final = fixed(
    {
        **_all(TEXT, "engine serving"),
        **_all(FLAG, "resilient health_checks atomic_requests server_side_cursors routed"),
        **_all(NUMBER, "conn_max_age prepare_threshold"),
        **_all(each(TEXT), "middleware options"),
        "pool": ANY_OR_NULL,
    }
)
_TARGET: Final = fixed(
    {
        **_all(TEXT, "alias user database sslmode sslrootcert sslcert sslkey sslnegotiation"),
        **_all(TEXT, "require_auth target_session_attrs service"),
        "hosts": each(fixed({"name": TEXT, "address": TEXT, "port": NUMBER})),
        "connect_timeout": NUMBER,
        "sources": _PAIRS,
        "problems": each(TEXT),
    }
)
_LIMITS: Final = fixed(
    {"idle": _LIMIT, "age": NUMBER, "age_source": TEXT, "ping_after": {"type": "number"}}
)
_SERVER: Final = fixed(
    {
        **_all(NUMBER, "max_connections reserved used client_connection_check_interval"),
        **_all(TEXT_OR_NULL, "lowest_tls tls_version cipher"),
        **_all(FLAG_OR_NULL, "tls_on superuser"),
        "round_trip": {"type": "number"},
    }
)
_POOLER: Final = fixed(
    {
        "mode": TEXT_OR_NULL,
        **_all(TEXT, "evidence version"),
        **_all(NUMBER, "client_idle_timeout query_wait_timeout max_prepared_statements pool_size"),
        "settings": _PAIRS,
    }
)
_KEEPALIVES: Final = fixed(
    {
        "keepalives": FLAG_OR_NULL,
        **_all(NUMBER, "keepalives_idle keepalives_interval keepalives_count user_timeout"),
    }
)
_SOCKET: Final = fixed(
    {
        **_all(NUMBER, "backend_pid port"),
        **_all(_ENDPOINT, "local peer"),
        **_all(FLAG_OR_NULL, "unix tls"),
        **_all(TEXT_OR_NULL, "host tls_version cipher"),
        "keepalives": nullable(_KEEPALIVES),
        "markers": {"type": "array"},
    }
)
# A row of the table of providers, which may get more columns.
_PROVIDER: Final = {"type": "object", "required": ["name"], "properties": {"name": TEXT}}
_FACTS: Final = fixed(
    {
        **_all(TEXT, "path path_evidence refusal refusal_code"),
        "server_version": {"type": "integer"},
        "provider": nullable(
            {"type": "object", "required": ["name"], "properties": {"name": TEXT}}
        ),
        "socket": _SOCKET,
        **_all(NUMBER, "idle_session_timeout idle_in_transaction_session_timeout"),
        **_all(NUMBER, "transaction_timeout statement_timeout tcp_keepalives_idle"),
        **_all(NUMBER, "tcp_keepalives_interval tcp_keepalives_count tcp_user_timeout"),
        **_all(FLAG_OR_NULL, "in_recovery read_only"),
        **_all(_ENDPOINT, "client server"),
    }
)
_CERTIFICATE: Final = fixed(
    {
        **_all(TEXT, "subject issuer common_name not_before not_after fingerprint"),
        **_all(each(TEXT), "dns_names ip_addresses"),
        "self_signed": FLAG,
    }
)
_TLS: Final = fixed(
    {
        **_all(TEXT, "answer said failure trust verify_error server_name certificate_note"),
        **_all(NUMBER, "seconds verify_code"),
        **_all(TEXT_OR_NULL, "version cipher"),
        **_all(FLAG_OR_NULL, "chain_verified hostname_matches"),
        "direct": FLAG,
        "certificate": nullable(_CERTIFICATE),
    }
)
SURVEY: Final = fixed(
    {
        "project": _PROJECT,
        "target": _TARGET,
        "asked": {"type": "object", "additionalProperties": NUMBER},
        "limits": nullable(_LIMITS),
        "server": nullable(_SERVER),
        "pooler": nullable(_POOLER),
        "measured": nullable(fixed({"limit": _LIMIT, "died": NUMBER, "keepalives": ANY})),
        "facts": nullable(_FACTS),
        "tls": nullable(_TLS),
    }
)
_RUNG: Final = fixed(
    {
        **_all(TEXT, "mode why_not advice"),
        **_all(FLAG_OR_NULL, "connects encrypted"),
        "seconds": NUMBER,
        "cause": TEXT_OR_NULL,
    }
)
SSLMODES: Final = fixed(
    {
        "rungs": each(_RUNG),
        "recommended": TEXT_OR_NULL,
        **_all(TEXT, "sslrootcert conclusion"),
        "tls": nullable(_TLS),
    }
)
_FOUND: Final = fixed(
    {
        **_all(FLAG, "keepalives idle complete"),
        **_all(NUMBER, "sessions survived died"),
        "ending": nullable(fixed(_all(TEXT, "how text reason"))),
    }
)
_MEASURED: Final = fixed(
    {
        **_all(NUMBER, "asked seconds"),
        **_all(_FOUND, "off on"),
        "interrupted": FLAG,
        **_all(TEXT, "refusal spared cure"),
        "settings": ANY,
        "sentences": each(TEXT),
    }
)
#: Measured, or refused.
PROBE_IDLE: Final[Shape] = {
    "anyOf": [_MEASURED, fixed({"refused": TEXT, "sentences": each(TEXT)}), {"type": "null"}]
}
_STEP: Final = fixed(
    {
        **_all(TEXT, "name row detail"),
        **_all(NUMBER, "seconds undisturbed"),
        "survived": FLAG_OR_NULL,
    }
)
DRILL: Final = fixed({"steps": each(_STEP), "refusal": TEXT})
