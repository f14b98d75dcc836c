"""Certificates for the servers of demo and tests: one authority per server, gone with it."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of the files a server and its clients need."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def issue(
    folder: Path,
    *names: str,
    owner: pwd.struct_passwd | None = None,
    expires: datetime | None = None,
) -> Certificates:
    """Write a new authority and a server certificate for these host names and addresses.

    The key belongs to ``owner`` (None: the current user) with mode 0600, as PostgreSQL demands.
    ``expires`` may lie in the past, for tests of refusals.
    """
    authority = trustme.CA(organization_name="django-resilient-pg tests")
    server = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=expires)
    files = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority.cert_pem.write_to_path(files.ca_file)
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    files.cert_file.write_bytes(chain)
    # Created closed: a chmod afterwards would leave a moment in which anybody could read the key.
    with open(os.open(files.key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as key:
        key.write(server.private_key_pem.bytes())
    if owner is not None:
        os.chown(files.key_file, owner.pw_uid, owner.pw_gid)
    files.ca_file.chmod(0o644)
    files.cert_file.chmod(0o644)
    return files
