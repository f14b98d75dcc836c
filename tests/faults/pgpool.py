"""A real pgpool-II before an embedded PostgreSQL that trusts it, without TLS."""

from __future__ import annotations

import os
import subprocess

from testproject.cluster import free_port
from testproject.postgres import Server
from tests.faults.daemons import ADDRESS, Daemon

TRUST = "local all all trust\nhost all all 127.0.0.1/32 trust\n"


class Pgpool(Daemon):
    """pgpool-II with one backend that it never gives up."""

    name = "pgpool"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        (server.data / "pg_hba.conf").write_text(TRUST)
        server.execute("SELECT pg_reload_conf()")
        folder = self.folder
        values = {
            "listen_addresses": ADDRESS,
            "port": self.port,
            "socket_dir": folder,
            "memqcache_total_size": "1MB",
            "pcp_port": free_port(),
            "pcp_socket_dir": folder,
            "pid_file_name": folder / "pgpool.pid",
            "work_dir": folder,
            "logdir": folder,
            "backend_clustering_mode": "raw",
            "backend_hostname0": ADDRESS,
            "backend_port0": server.port,
            "backend_flag0": "DISALLOW_TO_FAILOVER",
            "failover_on_backend_error": "off",
            "num_init_children": 4,
            "max_pool": 1,
            "enable_pool_hba": "off",
            "pool_passwd": "",
        }
        self._file = folder / "pgpool.conf"
        self._file.write_text("".join(f"{name} = '{value}'\n" for name, value in values.items()))

    def launch(self) -> subprocess.Popen[str]:
        """In the foreground: it ends with us."""
        return subprocess.Popen(
            [self.program(), "-n", "-f", str(self._file), "-F", os.devnull, "-a", os.devnull],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **self.hand_over(),
        )
