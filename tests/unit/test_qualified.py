"""Every name in every SQL text of the package has its schema.

A schema of the application's may come before ``pg_catalog``, and whoever may create there decides
what an unqualified name means: his function would run with the rights of the engine's session.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

import django_resilient_pg

HOME = Path(str(django_resilient_pg.__file__)).parent
#: What these write is for people, or a name that is looked for and never called.
PROSE = ("policy/messages.py", "policy/error_table.py", "diagnosis/findings/", "providers/table.py")
MODULES = [
    path for path in sorted(HOME.rglob("*.py")) if not str(path.relative_to(HOME)).startswith(PROSE)
]
# In capitals, as all SQL of the package has its keywords; or a call of what only PostgreSQL has.
SQL = re.compile(
    r"\b(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|EXTRACT)\b|\bpg_\w+\(|current_setting\("
    # Or a part of one, to be filled in: a call, a relation, a condition.
    r"|\A(?:\w+\.)?[a-z_]\w*\(.*\)(?:::\w+)?\Z|\bOPERATOR\(|\A(?:pg_\w+\.)?pg_\w+ AS \w+\Z"
    r"|\b(?:FROM|JOIN) [a-z_]\w*\.?|\A *(?:WHERE|AND|OR) "
)

pytestmark = pytest.mark.once
PATTERN = re.compile(r"\\[sbw]|\Adeadline\(")  # a pattern, or the name of a bound

STRING = re.compile(r"'(?:[^']|'')*'")
COMMENT = re.compile(r"--[^\n]*")
PLACEHOLDER = re.compile(r"%\(\w+\)s|%s|%%")
QUALIFIED_OPERATOR = re.compile(r"OPERATOR\(pg_catalog\.[-+*/<>=~!@#%^&|`?]+\)|<made>")
#: Names of the grammar: no schema is searched for them (keywords are in capitals).
TYPES = {"int", "integer", "bigint", "smallint", "boolean", "interval", "numeric"}


def texts(module: Path) -> Iterator[tuple[int, str]]:
    """The SQL of a module with its lines; what an f-string fills in reads ``<made>``."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    apart = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            apart.add(body[0].value)  # docstrings
        if isinstance(node, ast.JoinedStr):
            apart.update(node.values)
            yield from _chosen(node.lineno, "".join(map(_written, node.values)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in apart:
            yield from _chosen(node.lineno, node.value)


def _written(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "<made>"


def _chosen(line: int, text: str) -> Iterator[tuple[int, str]]:
    if SQL.search(text) and not PATTERN.search(text):
        yield line, text


def own_names(sql: str) -> set[str]:
    """What a text defines itself: WITH, and the columns of an alias."""
    expressions = re.findall(r"\b(\w+) (?:\([\w, ]+\) )?AS (?:MATERIALIZED )?\(", sql)
    return {*expressions, *re.findall(r"\bAS (\w+) \(", sql)}


def faults(sql: str, own: Set[str] = frozenset()) -> list[str]:
    """What has no schema in a text, and is not ``own``."""
    text = COMMENT.sub(" ", STRING.sub("''", sql))
    text = QUALIFIED_OPERATOR.sub(" ", PLACEHOLDER.sub(" 1 ", text))
    text = re.sub(r"EXTRACT\(\w+ FROM ", "EXTRACT(", re.sub(r"(?:SELECT |\()\*", "", text))
    own = own | own_names(text)
    found = [
        f"{name}()"
        for schema, name in re.findall(r"([\w\"]+\.)?\b([a-z_]\w*)\s*\(", text)
        if schema != "pg_catalog." and name not in own
    ]
    found += [
        f"FROM {name}"
        for name in re.findall(r"\b(?:FROM|JOIN|INTO|TABLE)\s+([a-z_][\w.]*)", text)
        if not name.startswith(("pg_catalog.", "pg_temp.")) and name.partition(".")[0] not in own
    ]
    found += [
        f"::{name}"
        for name in re.findall(r"::\s*([\w.\"]+)", text)
        if not name.startswith("pg_catalog.") and name not in TYPES
    ]
    found += re.findall(r"[-+*/<>=~!@#^&|`?]+", text)
    found += re.findall(
        r"\b(?:NOT )?(?:LIKE|ILIKE|IN|BETWEEN|SIMILAR|NULLIF|USING|NATURAL)\b", text
    )
    found += re.findall(r"\bIS (?:NOT )?DISTINCT\b|\bCASE (?!WHEN)", text)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HOME)))
def test_everything_is_named_with_its_schema(module: Path) -> None:
    found = list(texts(module))
    own = set[str]().union(*(own_names(text) for _, text in found))
    for line, text in found:
        assert faults(text, own) == [], f"{module}:{line}: {text}"


def test_the_texts_are_found() -> None:
    found = {module.stem: len(list(texts(module))) for module in MODULES}
    for name, least in {
        "outcome": 5,
        "terminator": 4,
        "primary": 2,
        "questions": 5,
        "cases": 3,
    }.items():
        assert found[name] >= least, name


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("SELECT pg_backend_pid()", "pg_backend_pid()"),
        ("SELECT public.f (1)", "f()"),
        ("SELECT 1 FROM pg_proc", "FROM pg_proc"),
        ("SELECT x FROM pg_catalog.pg_proc AS p JOIN pg_type AS t ON true", "FROM pg_type"),
        ("SELECT x::text", "::text"),
        ("SELECT x::pg_catalog.text = 'a'", "="),
        ("SELECT x WHERE y IN (1, 2)", "IN"),
        ("SELECT x WHERE y LIKE %s", "LIKE"),
        ("SELECT CASE x WHEN 1 THEN 2 END", "CASE "),
        ("SELECT a + b", "+"),
    ],
)
def test_an_unqualified_name_is_refused(sql: str, fault: str) -> None:
    assert faults(sql) == [fault]


@pytest.mark.parametrize(
    "fragment",
    ["inet_client_port()", "host(inet_client_addr())", "pg_stat_activity AS a", " AND pid = %s"],
)
def test_a_fragment_is_read_too(fragment: str) -> None:
    """It may be filled into a text that is looked at without it."""
    assert list(_chosen(1, fragment))


def test_a_qualified_one_is_not() -> None:
    sql = """WITH a (x) AS MATERIALIZED (SELECT w::pg_catalog.name -- = f(x)
        FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS w (v))
        SELECT COALESCE(a.x, 'f(x) = 1')::int FROM a WHERE a.x OPERATOR(pg_catalog.<>) %(x)s"""
    assert faults(sql) == []
