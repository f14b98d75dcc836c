"""A server whose certificates, access rules and TLS settings can be broken and put right again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from django.db.backends.base.base import BaseDatabaseWrapper

from django_resilient_pg.diagnosis.path.attempts import Connector
from django_resilient_pg.diagnosis.settings.target import Target, target
from testproject import binaries, certificates
from testproject.certificates import Certificates
from testproject.postgres import Server
from tests.engines import DRIVER

_FILES = ("ca.pem", "server.pem", "server.key")


def target_of(connection: BaseDatabaseWrapper) -> tuple[Target, Connector]:
    """What the diagnosis needs of a connection, which stays closed."""
    params = connection.get_connection_params()
    psycopg3 = DRIVER == "psycopg"
    found = target(connection.alias, params, os.environ, psycopg3=psycopg3)
    return found, Connector.of(connection)


class TlsServer(Server):
    """A server with the breakages of TLS; sessions opened later see them."""

    def present(self, *names: str, expires: datetime | None = None) -> None:
        """Present a certificate for these names, of an authority of its own (``ca_file``)."""
        account = binaries.server_account()
        certificates.issue(self.folder, *names, owner=account, expires=expires)
        self.configure()

    def admit(self, *rules: str) -> None:
        """Have these lines in pg_hba.conf, below one for the superuser's Unix socket."""
        lines = ["local all postgres trust", *rules]
        (self.data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in lines))
        self.configure()

    def trust_clients(self, ca_file: Path) -> None:
        """Ask clients for a certificate of this authority."""
        copy = self.folder / "clients.pem"  # where the server's account can read it
        shutil.copy(ca_file, copy)
        copy.chmod(0o644)
        self.configure(ssl_ca_file=str(copy))

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Have everything as before after the block."""
        rules = (self.data / "pg_hba.conf").read_text()
        kept = {name: (self.folder / name).read_bytes() for name in _FILES}
        try:
            yield
        finally:
            (self.data / "pg_hba.conf").write_text(rules)
            for name, content in kept.items():
                (self.folder / name).write_bytes(content)
            changed = self.execute(
                "SELECT name FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'"
            )
            self.configure(**dict.fromkeys((name for (name,) in changed), None))


def client_certificate(folder: Path) -> Certificates:
    """A client's certificate of an authority of its own."""
    return certificates.issue(folder, "app")


def encrypt(key_file: Path, passphrase: str) -> None:
    """Have a private key that is read with this passphrase only."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.encode()),
        )
    )
