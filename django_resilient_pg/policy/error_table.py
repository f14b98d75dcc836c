"""The one table of what an error says, and the words it is written in. Data only.

:func:`.verdicts.judge` walks it. Sources, where a comment names none: ``tests/data/errors.json``
(each text as measured or as reported, with its link), the PostgreSQL manual's appendix A (error
codes), PgBouncer's ``src/objects.c``, ``src/janitor.c`` and ``src/server.c``.
"""

import enum
import errno
from typing import Final, NamedTuple


class Reason(enum.Enum):
    """Why a connection was lost.

    ``text`` is a part of a sentence: 'Connection "default" lost after 0.2 s idle: ...'.
    """

    text: str

    SERVER_IDLE_TIMEOUT = (
        "server_idle_timeout",
        "terminated by the server's idle_session_timeout",
    )
    PATH_IDLE_TIMEOUT = (
        "path_idle_timeout",
        "dropped as idle by a pooler, proxy or firewall on the path",
    )
    TRANSACTION_TIMEOUT = (
        "transaction_timeout",
        "terminated by a timeout for idle or long transactions",
    )
    ADMINISTRATOR = ("administrator", "terminated by administrator")
    RESTART = ("restart", "the server or the pooler was shutting down, down or starting up")
    CRASH = ("crash", "a server process crashed")
    FAILOVER = ("failover", "the server is, or has become, a standby")
    NETWORK = ("network", "the network path to the server broke")
    FORK = ("fork", "inherited from the parent process by a fork")
    LOGIN_REFUSED = ("login_refused", "the pooler's login at its server was refused")
    STATEMENT_POOLING = (
        "statement_pooling",
        "the pooler allows no transactions (pool_mode=statement)",
    )
    QUEUE_TIMEOUT = (
        "queue_timeout",
        "the pooler had no free server connection in time (query_wait_timeout)",
    )
    UNKNOWN = ("unknown", "cause unknown")

    def __new__(cls, value: str, text: str) -> "Reason":
        """Make a member whose value is ``value`` alone: stable in JSON and counters."""
        member = object.__new__(cls)
        member._value_ = value
        member.text = text
        return member


class Phase(enum.Enum):
    """What was under way when the error came.

    IDLE: nothing but time had passed (whether a byte was sent before the end was noticed, only
    the caller knows). CONNECT: a connection attempt. STATEMENT: a statement had been handed to
    the driver. FETCH: rows were being delivered. COMMIT: the transaction's end.
    """

    IDLE = "idle"
    CONNECT = "connect"
    STATEMENT = "statement"
    FETCH = "fetch"
    COMMIT = "commit"


class Again(NamedTuple):
    """What may be retried after a failed statement."""

    read: bool
    write: bool


NOTHING: Final = Again(read=False, write=False)
READS: Final = Again(read=True, write=False)
# Only where the entry proves that the statement was not sent or had no effect.
ALL: Final = Again(read=True, write=True)
# A statement refused for writing: it had no effect, and it was not a read.
WRITES: Final = Again(read=False, write=True)

ANY: Final = frozenset(Phase)
CONNECT: Final = frozenset({Phase.CONNECT})
LIVE: Final = ANY - CONNECT


class Entry(NamedTuple):
    """One known error.

    Attributes:
        name: what a verdict calls it (``Verdict.rule``).
        again: what may be retried in the phases IDLE and STATEMENT. In CONNECT a transient
            failure may always be tried again; in FETCH and COMMIT nothing ever is.
        reason: why the connection died, if it did.
        codes: SQLSTATEs that mean this entry whatever the text.
        under: SQLSTATEs that mean this entry together with one of its texts.
        texts: parts of the message, lower case. They also decide alone where there is no
            SQLSTATE: psycopg exposes none for connection attempts, psycopg2 hides many.
        errnos: system errors whose words mean this entry as its texts do, in any language.
        failed: the same, where they are libpq's reason for a failed attempt.
        exceptions: class names that mean this entry where neither code nor text does.
        phases: where it applies.
        lost: the connection is unusable, or there is none.
        transient: connecting again is worth it.
        final: no statement, transaction or request is retried after it. Of connection attempts
            all those that are not transient are final.
        unnoticed: the driver goes on calling such a connection open.
        read_only: the server refused to write.
    """

    name: str
    again: Again
    reason: Reason
    codes: tuple[str, ...] = ()
    under: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    errnos: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    exceptions: tuple[str, ...] = ()
    phases: frozenset[Phase] = ANY
    lost: bool = True
    transient: bool = True
    final: bool = False
    unnoticed: bool = False
    read_only: bool = False


def _system(*names: str) -> tuple[int, ...]:
    """The numbers of those errors that this platform has."""
    return tuple(getattr(errno, name) for name in names if hasattr(errno, name))


#: The entry of a login that is refused for its password, or for want of one.
WRONG_PASSWORD: Final = "wrong password"
#: The entries of a user or a password that is refused.
LOGIN_REFUSED: Final = frozenset({WRONG_PASSWORD, "login refused"})
_REFUSED_LOGINS: Final = (
    "is not permitted to log in", "has no credentials for the role", "no pg_hba.conf entry",
    "pg_hba.conf rejects", "permission denied for database",
)  # fmt: skip
_REFUSED_PASSWORDS: Final = ("authentication failed", "no password supplied", "wrong password type")

# The first entry that fits decides, so the order says: what never passes, before what does (a
# message may report several attempts); what the server said, before what the socket then did.
TABLE: Final[tuple[Entry, ...]] = (
    # -- connecting: wrong configuration. Trying again changes nothing, and locks accounts. ----
    # libpq: fe-secure-openssl.c, fe-connect.c; AWS RDS Proxy and Neon: troubleshooting pages.
    Entry("TLS refused", NOTHING, Reason.UNKNOWN, phases=CONNECT, transient=False, texts=(
        "certificate verify failed", "server certificate for",
        "requires a valid client certificate", "server does not support ssl",
        "requires tls connections", "connection is insecure", "certificate file",
        "private key file",
    )),
    # PostgreSQL auth.c auth_failed(): every method ends in "authentication failed for user".
    # PgBouncer (08P01) quotes what its server said, or says why it cannot answer the server.
    Entry(WRONG_PASSWORD, NOTHING, Reason.UNKNOWN, phases=CONNECT, transient=False,
          codes=("28P01",), under=("08P01",), texts=_REFUSED_PASSWORDS),
    Entry("login refused", NOTHING, Reason.UNKNOWN, phases=CONNECT, transient=False,
          codes=("28000", "42501"), under=("08P01",), texts=_REFUSED_LOGINS),
    # The same after the login: the pooler has its own, which its server refuses.
    Entry("pooler's login refused", NOTHING, Reason.LOGIN_REFUSED, phases=LIVE, transient=False,
          final=True, codes=("28000", "28P01", "3D000"), under=("08P01",), texts=(
        *_REFUSED_PASSWORDS, *_REFUSED_LOGINS, "no such database",
    )),
    # PostgreSQL postinit.c; PgBouncer client.c ("bouncer config error" up to 1.18); Supavisor.
    Entry("no such database or role", NOTHING, Reason.UNKNOWN, phases=CONNECT, transient=False,
          codes=("3D000", "55000"), under=("08P01", "XX000"), texts=(
        '" does not exist', "is not currently accepting connections", "no such database",
        "bouncer config error", "(enotfound)", "tenant or user not found",
    )),
    # libpq conninfo, fe-connect.c; guc.c and postgres.c (OPTIONS["options"] and PGOPTIONS);
    # start-up parameters that PgBouncer and RDS Proxy do not take.
    Entry("wrong option", NOTHING, Reason.UNKNOWN, phases=CONNECT, transient=False,
          codes=("42704", "22023", "0A000", "55P02"), under=("08P01", "42501", "42601"), texts=(
        "invalid connection option", "invalid dsn", "unrecognized configuration parameter",
        "unsupported startup parameter", "command-line options", "endpoint id is not specified",
        "invalid command-line argument", "invalid value for parameter", "valid range for parameter",
        "requires a boolean value", "requires a value", '" cannot be changed',
        "permission denied to set parameter", "invalid integer value",
        "keepalives parameter must be an integer",
    )),
    # postmaster.c: a standby that will never answer queries.
    Entry("standby without hot_standby", NOTHING, Reason.FAILOVER, phases=CONNECT,
          transient=False, under=("57P03",), texts=("hot standby mode is disabled",)),

    # -- connecting: the server is there, but not for us, not now. -----------------------------
    # postmaster.c: a backend has crashed and the others are being restarted.
    Entry("in recovery mode", READS, Reason.CRASH, under=("57P03",),
          texts=("the database system is in recovery mode",)),
    Entry("starting or stopping", READS, Reason.RESTART, codes=("57P03",), texts=(
        "the database system is starting up", "the database system is shutting down",
        "the database system is not accepting connections",
        "the database system is not yet accepting connections",
        "server is not accepting clients",  # CockroachDB
    )),
    # libpq target_session_attrs: only the wrong kind of server answers; a failover is under way.
    Entry("wrong role", NOTHING, Reason.FAILOVER, phases=CONNECT, texts=(
        "session is read-only", "session is not read-only", "server is in hot standby mode",
        "server is not in hot standby mode", "no primary available for branch",
    )),
    # proc.c; limits of PgBouncer, RDS Proxy, Supavisor, Odyssey, Neon. The driver closes what was
    # refused.
    Entry("too many connections", NOTHING, Reason.UNKNOWN, phases=CONNECT,
          codes=("53300", "53200", "53400"), under=("08P01", "XX000"), texts=(
        "too many clients already", "remaining connection slots are reserved",
        "too many connections for", "no more connections allowed", "max client connections",
        "maximum number of client connections to the proxy", "(ecircuitbreaker)",
        "maxclientsinsessionmode", "max clients reached", "too many tcp connections",
        "failed to acquire permit",
    )),
    # postmaster.c report_fork_failure_to_client(), in plain text before any TLS: libpq since 17.1
    # shows only that there was an error.
    Entry("short of resources", NOTHING, Reason.UNKNOWN, phases=CONNECT, codes=("53000", "53100"),
          errnos=_system("EAGAIN", "ENOMEM", "ENOBUFS"), texts=(
        "could not fork new process", "server sent an error response during ssl exchange",
        "out of memory",
    )),
    # authentication_timeout: the server, or what it asks (LDAP, PAM), was too slow.
    Entry("login timed out", NOTHING, Reason.UNKNOWN, phases=CONNECT, under=("57014",),
          texts=("canceling authentication due to timeout",)),
    # psycopg_pool: no connection was involved.
    Entry("pool gave none", NOTHING, Reason.UNKNOWN, phases=CONNECT, lost=False,
          exceptions=("PoolTimeout", "PoolClosed", "TooManyRequests")),
    # PgBouncer kill_pool_logins() and client_login_timeout reach waiting clients only: nothing
    # of theirs was passed on. Up to 1.18 the first text, since 1.19 the second.
    Entry("pooler cannot reach the server", ALL, Reason.RESTART, under=("08P01",), texts=(
        "pgbouncer cannot connect to server", "server login has been failing",
        "client_login_timeout (server down)",
    )),
    # Neon's compute waking up; Odyssey (08006), pgcat and pgpool (58000) without a server.
    Entry("proxy cannot reach the server", READS, Reason.RESTART, under=("08006", "58000"), texts=(
        "couldn't connect to compute node", "failed to connect to remote server",
        "failed to connect to upstream", "could not get connection from the pool",
        "control plane request failed", "failed to create a backend",
        "all backend nodes are down",
    )),
    # PgBouncer DISABLE.
    Entry("database disabled", NOTHING, Reason.ADMINISTRATOR, phases=CONNECT, under=("08P01",),
          texts=('" is disabled',)),

    # -- queued at a pooler, then given up: the statement never reached a server. --------------
    # Who has waited once for a free server connection does not queue up again: that would only
    # make the queue longer. PgBouncer janitor.c: only clients in waiting_client_list.
    Entry("query_wait_timeout", ALL, Reason.QUEUE_TIMEOUT, under=("08P01",), final=True,
          texts=("query_wait_timeout",)),
    Entry("Supavisor checkout timeout", ALL, Reason.QUEUE_TIMEOUT, under=("XX000",), final=True,
          texts=("(echeckouttimeout)",)),
    # AWS RDS Proxy ConnectionBorrowTimeout; seen as 08000.
    Entry("RDS Proxy borrow timeout", ALL, Reason.QUEUE_TIMEOUT, under=("08000",), final=True,
          texts=("timed-out waiting to acquire database connection",)),
    # PgBouncer client.c: BEGIN, and then everything else in it, is refused.
    Entry("statement pooling", NOTHING, Reason.STATEMENT_POOLING, under=("08P01",), transient=False,
          final=True, texts=(
        "transaction blocks not allowed in statement pooling mode", "long transactions not allowed",
    )),

    # -- the last words of a server ------------------------------------------------------------
    # syncrep.c: the transaction HAS committed here, whatever the client sees next.
    Entry("ended while waiting for a standby", NOTHING, Reason.ADMINISTRATOR, under=("57P01",),
          texts=("canceling the wait for synchronous replication",)),
    # The postmaster is gone (postmaster death watch): its children end themselves.
    Entry("postmaster exit", READS, Reason.CRASH, under=("57P01",),
          texts=("unexpected postmaster exit",)),
    # quickdie(), PostgreSQL 14 and later; a WARNING.
    Entry("immediate shutdown", READS, Reason.RESTART, under=("57P01",),
          texts=("terminating connection due to immediate shutdown command",)),
    # pg_terminate_backend and a fast shutdown say the same words.
    Entry("administrator command", READS, Reason.ADMINISTRATOR, codes=("57P01",),
          texts=("terminating connection due to administrator command",)),
    Entry("crash of another process", READS, Reason.CRASH, codes=("57P02",),
          texts=("crash of another server process",)),
    # PgDog ends idle clients with the server's own code.
    Entry("idle at PgDog", READS, Reason.PATH_IDLE_TIMEOUT, under=("57P05",),
          texts=("disconnecting idle client",)),
    Entry("idle_session_timeout", READS, Reason.SERVER_IDLE_TIMEOUT, codes=("57P05",),
          texts=("terminating connection due to idle-session timeout",)),
    # A transaction was open: the statement alone would run in another one. pgcat: 58000;
    # PgBouncer janitor.c; Odyssey: in the DETAIL.
    Entry("idle in transaction", NOTHING, Reason.TRANSACTION_TIMEOUT, codes=("25P03",),
          under=("08P01", "08006", "58000"), texts=(
        "terminating connection due to idle-in-transaction timeout", "idle transaction timeout",
        "due to idle in transaction timeout",
    )),
    # It would run into the same limit again: not transient.
    Entry("transaction_timeout", NOTHING, Reason.TRANSACTION_TIMEOUT, codes=("25P04",),
          under=("08P01",), texts=("transaction timeout",), transient=False),
    # Must precede the recovery conflicts, whose words it shares.
    Entry("database dropped", NOTHING, Reason.ADMINISTRATOR, codes=("57P04",), transient=False,
          texts=("connected to a database that must be dropped",)),
    # A standby applies WAL that removes what the session needs. 40001 and dead (measured).
    Entry("session ended by recovery", READS, Reason.FAILOVER, under=("40001", "40P01"),
          texts=("terminating connection due to conflict with recovery",)),

    # -- the last words of a pooler ------------------------------------------------------------
    # PgBouncer; pgpool's client_idle_limit (57000); Odyssey (08006, in the DETAIL).
    Entry("idle at a pooler", READS, Reason.PATH_IDLE_TIMEOUT, under=("08P01", "57000", "08006"),
          texts=("client_idle_timeout", "client_idle_limit", "by odyssey due to idle timeout")),
    # PgBouncer: the query may have run for that long; it would again.
    Entry("query_timeout", NOTHING, Reason.UNKNOWN, under=("08P01",), transient=False,
          texts=("query timeout", "query_timeout")),
    Entry("pooler stopping", READS, Reason.RESTART, under=("08P01", "08006"),
          texts=("server shutting down", "gracefully shutting down", "suspend_timeout")),
    Entry("pooler's administrator", READS, Reason.ADMINISTRATOR, under=("08P01",), texts=(
        "admin forced disconnect", "database removed", "database configuration changed",
        "server lifetime over", "pause failed",
    )),
    # The pooler does not know either why its server went away: a crash, a timeout, the network.
    Entry("pooler lost the server", READS, Reason.UNKNOWN, under=("08P01", "XX000"),
          texts=("server conn crashed?", "server connection closed", "(edbhandlerexited)")),

    # -- refused by the driver: nothing was sent -----------------------------------------------
    # psycopg: the end came while a statement was under way (another thread closed it), measured.
    Entry("closed meanwhile", READS, Reason.UNKNOWN,
          texts=("failed: the connection is closed", "connection pointer is null")),
    # psycopg _check_connection_ok() and psycopg2 EXC_IF_CONN_CLOSED, both before sending.
    Entry("closed before", ALL, Reason.UNKNOWN,
          texts=("the connection is closed", "connection already closed")),
    # psycopg: an earlier statement was interrupted (a signal handler that raised). PQsendQuery
    # refuses this one. The connection answers to nobody else, yet a COPY may still be using it.
    Entry("busy", ALL, Reason.UNKNOWN, phases=LIVE, lost=False,
          texts=("another command is already in progress",)),
    # Django: the transaction this statement belongs to is gone.
    Entry("lost inside atomic()", NOTHING, Reason.UNKNOWN, phases=LIVE,
          texts=("cannot open a new connection in an atomic block",)),
    # Mistakes of the application, which stay mistakes on another connection.
    Entry("misuse", NOTHING, Reason.UNKNOWN, phases=LIVE, lost=False, transient=False, texts=(
        "cursor already closed", "the cursor is closed", "can only be used in that same thread",
        "execute queries until the end of the 'atomic' block",
    )),

    # -- what the socket did -------------------------------------------------------------------
    # Two processes on one TLS stream. The rows of the other may be among ours.
    Entry("bad record mac", NOTHING, Reason.FORK, texts=("bad record mac",)),
    # The descriptor was closed under the driver, which goes on saying "open"; perhaps while the
    # server was executing (measured: the INSERT took effect, with either driver's text).
    Entry("descriptor closed", READS, Reason.UNKNOWN, unnoticed=True,
          texts=("bad file descriptor", "connection socket closed")),
    # Nothing listens: down or restarting (or the wrong port). "could not connect": libpq < 14.
    Entry("nothing listens", NOTHING, Reason.RESTART, phases=CONNECT,
          errnos=_system("ECONNREFUSED"), failed=_system("ENOENT"), texts=(
        "connection refused", "failed: no such file or directory", "could not connect to server",
    )),
    Entry("no address", READS, Reason.NETWORK, phases=CONNECT,
          texts=("could not translate host name", "failed to resolve host")),
    Entry("unreachable", READS, Reason.NETWORK, exceptions=("ConnectionTimeout",),
          errnos=_system("ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN",
                         "EADDRNOTAVAIL", "EADDRINUSE"), texts=(
        "timeout expired", "connection timed out", "operation timed out", "no route to host",
        "network is unreachable", "host is down", "cannot assign requested address",
    )),
    # A FIN without TLS close_notify, or an RST: nobody took leave.
    Entry("cut", READS, Reason.NETWORK, errnos=_system("ECONNRESET", "EPIPE", "ECONNABORTED"),
          texts=(
        "connection reset by peer", "broken pipe", "software caused connection abort",
        "eof detected", "unexpected eof",
    )),
    # An orderly end whose cause libpq did not pass on (psycopg2 with libpq 17 hides FATALs).
    Entry("closed by the server", READS, Reason.UNKNOWN, texts=(
        "server closed the connection unexpectedly",
        "ssl connection has been closed unexpectedly", "terminating connection",
    )),
    # libpq fe-misc.c, fe-secure*.c, fe-exec.c: whatever else went wrong below the protocol.
    Entry("broken stream", READS, Reason.UNKNOWN, texts=(
        "could not receive data from server", "could not send data to server",
        "ssl syscall error", "ssl error code", "gssapi wrap error", "gssapi unwrap error",
        "lost synchronization with server", "no connection to the server",
        "connection not open", "the connection is lost",
    )),
    # Class 08 without better words. With severity ERROR it is a foreign server's (dblink,
    # postgres_fdw) and the connection lives: judge() sees to that.
    Entry("connection exception", READS, Reason.UNKNOWN,
          codes=("08000", "08001", "08003", "08006", "08007", "08P01"), phases=LIVE),
    # A server that cannot be connected to for a transient cause (as the AWS drivers have it).
    Entry("connecting failed", NOTHING, Reason.UNKNOWN, phases=CONNECT,
          codes=("08001", "08006", "58000", "58030")),

    # -- the connection lives ------------------------------------------------------------------
    # A standby cancelled the statement for its WAL. Writes do not apply there.
    Entry("cancelled by recovery", READS, Reason.FAILOVER, lost=False, under=("40001", "40P01"),
          texts=("conflict with recovery",)),
    # The transaction had no effect: it, as a whole, may be retried.
    Entry("transaction conflict", ALL, Reason.UNKNOWN, lost=False,
          codes=("40001", "40P01", "55P03")),
    # utility.c PreventCommandIfReadOnly(), PreventCommandDuringRecovery(). A read-only
    # transaction of the application's own says the same: ask in_hot_standby.
    Entry("read only", WRITES, Reason.FAILOVER, codes=("25006",), lost=False, read_only=True,
          texts=("in a read-only transaction",)),
    # The session was replaced, or a transaction pooler is in between.
    Entry("cursor gone", READS, Reason.UNKNOWN, codes=("34000",), lost=False),
    Entry("prepared statement gone", READS, Reason.UNKNOWN, codes=("26000",), lost=False,
          transient=False),
    # Asked for (statement_timeout, a cancel request) or of the application's own making.
    Entry("cancelled or aborted", NOTHING, Reason.UNKNOWN, codes=("57014", "25P02", "42P05"),
          lost=False, transient=False),
)  # fmt: skip
