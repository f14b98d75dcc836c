"""Extensions, whose functions are harmless, and foreign tables, whose reads may write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import Error

from testproject.postgres import Server
from tests import needs
from tests.engines import Connections
from tests.faults.proxy import Proxy
from tests.server.scenarios import Stage

pytestmark = pytest.mark.once_per_driver


@pytest.fixture(scope="module")
def full_server() -> Iterator[Server]:
    """One that has extensions."""
    with Server(pg_bin=needs.postgres_with("postgres_fdw")) as running:
        running.create_database("remote")
        running.execute("CREATE TABLE ledger (value int)", database="remote")
        running.execute("GRANT ALL ON ledger TO app", database="remote")
        for statement in (
            'CREATE EXTENSION "uuid-ossp"',
            "CREATE EXTENSION pgcrypto",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION citext",
            "CREATE EXTENSION postgres_fdw",
            f"""CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw
                OPTIONS (host '{running.host}', port '{running.port}', dbname 'remote')""",
            f"""CREATE USER MAPPING FOR app SERVER far
                OPTIONS (user 'app', password '{running.password}')""",
            "CREATE FOREIGN TABLE ledger (value int) SERVER far",
            "CREATE VIEW books AS SELECT * FROM ledger",
            "ALTER VIEW books OWNER TO app",
            "CREATE TABLE parted (value int) PARTITION BY LIST (value)",
            "CREATE TABLE here PARTITION OF parted FOR VALUES IN (1)",
            """CREATE FOREIGN TABLE there PARTITION OF parted FOR VALUES IN (2) SERVER far
                OPTIONS (table_name 'ledger')""",
            "CREATE FUNCTION gen_salt(n int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
        ):
            running.execute(statement, database="app")
        yield running


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT uuid_generate_v4(), gen_random_bytes(3)", ""),
        ("SELECT 'a=>1'::hstore -> 'a', 'A'::citext = 'a'", ""),
        ("SELECT gen_salt('md5')", "the volatile function gen_salt()"),
        ("SELECT * FROM ledger", 'it reads the foreign table "ledger"'),
        ("SELECT * FROM books", 'it reads the foreign table "ledger"'),
        ("SELECT * FROM parted", 'it reads the foreign table "there"'),
        ("SELECT * FROM here", ""),
    ],
)
def test_extensions_and_foreign_tables(sql: str, expected: str, full_server: Server) -> None:
    with Proxy(full_server.port) as proxy:
        made = Connections(full_server)
        stage = Stage(full_server, made(PORT=proxy.port, CONN_MAX_AGE=None), "app")
        stage.run(sql)
        proxy.cut_at(1, "answer")
        try:
            stage.run(sql)
            told = ""
        except Error as error:
            told = error.__notes__[-1]
        made.close()
    assert (told == "") is (expected == "")
    assert expected in told
