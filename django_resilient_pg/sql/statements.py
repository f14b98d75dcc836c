"""What a statement does, as far as its text can tell. Pure; used only off the healthy path.

What cannot be read with certainty counts as the worst it could be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .kinds import Kind as Kind
from .lexer import ESCAPED_NAME, NOT_INSIDE, bare, fold
from .memory import LONGEST_READ, remembered
from .texts import without_strings


@dataclass(frozen=True, slots=True)
class Statement:
    """What the text says.

    Attributes:
        kind: see :class:`Kind`.
        keyword: the first word, upper case ("SELECT", "SET" ...), for messages.
        functions: names called like functions, lower case unless quoted, without schema.
        pins: the words that change the session so that a new one would differ, or "".
        controls: it begins, ends or undoes a transaction or part of one, maybe among others.
    """

    kind: Kind
    keyword: str
    functions: frozenset[str]
    pins: str
    controls: bool

    @property
    def passes(self) -> bool:
        """Whether nothing of it outlives its transaction: a read, SET LOCAL, SET TRANSACTION.

        Other than by the functions that it calls.
        """
        local = self.kind is Kind.OTHER and self.keyword == "SET" and not self.pins
        return local or self.kind is Kind.READ


#: The setting that says whether a backslash in a plain string is nothing but that.
STANDARD_STRINGS = "standard_conforming_strings"
_READS = frozenset({"SELECT", "VALUES", "TABLE", "SHOW"})
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_UNREPEATABLE = frozenset(
    "CALL DO COPY BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE PREPARE EXECUTE".split()
)
_CONTROL = frozenset(
    "BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE PREPARE".split()  # TRANSACTION
)
# FETCH and MOVE depend on an open cursor, DECLARE opens one: a driver's server-side cursor is
# recognised by its object, not by this text.
_SESSION_WORDS = frozenset(
    "SET RESET LISTEN UNLISTEN DISCARD LOAD PREPARE DEALLOCATE DECLARE CLOSE".split()
)
# Inside a READ ONLY transaction the server refuses what these would write. A request that is
# replayed and a transaction that is lost have no such guard. What follows UPDATE does not matter: a
# table may be called "skip", "nowait" or "of".
_WRITING_WORDS = re.compile(
    r"\b(?:UPDATE\s+[^\s;)]|DELETE\s+FROM|INTO\b|FOR\s+(?:NO\s+KEY\s+)?UPDATE"
    r"|FOR\s+(?:KEY\s+)?SHARE)",
    re.IGNORECASE | re.ASCII,
)
# The server takes the quoted word for the option too: EXPLAIN ("analyze") ...
_ANALYZE = re.compile(r"\bANALY[ZS]E\b", re.IGNORECASE)
_DATA = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
# What may end a transaction, first of all or after another statement; not ROLLBACK TO.
_ENDS = re.compile(
    r"(?:\A|;)\s*(?:COMMIT|END|ABORT|PREPARE\s+TRANSACTION"
    r"|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b))\b",
    re.IGNORECASE,
)
# Nothing here may split a text in more than one way, nor go through the rest of it once for each
# of its words: names and strings are often the users' own, and what is read here has succeeded.
_QUOTED = re.compile(r'"(?:[^"]|"")*+"')
_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*")
# The second and third line pass over what else would be tried at each of its characters.
_CALL = re.compile(
    r"""(?P<as>\b[Aa][Ss]\s+)?(?P<name>"(?:[^"]|"")++"|[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)\s*\(
    |"(?:[^"]|"")*+"
    |[\w$\x80-\U0010ffff]{64,}+""",
    re.VERBOSE,
)
# A query follows, or it is the column list of a function that returns records: f(1) AS (a int).
_CTE_COLUMNS = re.compile(
    r"\([^()]*\)\s*AS\s+(?:NOT\s+MATERIALIZED\s*|MATERIALIZED\s*)?"
    r"\(\s*(?:\(|(?:SELECT|WITH|TABLE)\b|VALUES\s*\()",
    re.IGNORECASE | re.ASCII,
)
# The call, not the word: a table may be called "pg_advisory_lock_log".
_ADVISORY = re.compile(
    r"\b(pg_(?:try_)?advisory_(?:lock|unlock))(?:_shared|_all)?\"?\s*\(", re.IGNORECASE
)
_SET_CONFIG = re.compile(r"\bset_config\"?\s*\(", re.IGNORECASE)
# ASCII: what else Python takes for a blank is a part of a name for the server.
_LOCAL_CONFIG = re.compile(r"\bset_config\"?\s*\([^()]*,\s*true\s*\)", re.IGNORECASE | re.ASCII)
_CREATE_TEMPORARY = re.compile(
    r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:LOCAL\s+|GLOBAL\s+)?(?:TEMP|TEMPORARY)\s+\w+"
    r"|(?:\w+\s+){1,6}\"?pg_temp(?:_\d+)?\b)",
    re.IGNORECASE,
)
# What a block of code may do to its session. UPDATE ... SET looks the same: too careful.
_IN_A_BLOCK = re.compile(
    r"\b(?:SET|RESET|set_config|setseed|LISTEN|TEMP|TEMPORARY|pg_temp|LOAD|pg_(?:try_)?advisory_lock"
    r"(?:_shared)?)\b",
    re.IGNORECASE,
)
_SEED = re.compile(r"\bsetseed\"?\s*\(", re.IGNORECASE)
_INTO_TEMPORARY = re.compile(
    r"\bINTO\s+(?:LOCAL\s+|GLOBAL\s+)?\"?(?:TEMP|TEMPORARY|pg_temp(?:_\d+)?)\b", re.IGNORECASE
)
_DROPPED = re.compile(
    rf"{NOT_INSIDE}ON\s+COMMIT\s+DROP(?![A-Za-z0-9_$\x80-\U0010ffff])", re.IGNORECASE | re.ASCII
)
# These end with the transaction.
# A setting of the application's own may be called "local.tenant", "local$1.tenant" or "localé.a".
_LOCAL = re.compile(
    r'SET\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)(?=[\s"])(?!\s*(?:\.|=|TO\b))|DECLARE\b(?!.*\bHOLD\b)',
    re.IGNORECASE | re.DOTALL | re.ASCII,
)


@remembered
def analyse(sql: str, *, standard_strings: bool = True) -> Statement:
    """Read one string of SQL.

    Args:
        sql: the text as it was handed to the cursor, placeholders included.
        standard_strings: the server's ``standard_conforming_strings``; where it is off, a
            backslash makes the end of a string uncertain and the text is not trusted.
    """
    text = bare(sql).rstrip("; \t\r\n\f\v")
    keyword = _keyword(text)
    # A semicolon in a quoted identifier counts as well: rare, and only ever too careful.
    uncertain = ";" in text or ("\\" in sql and not standard_strings) or "\x00" in sql
    kind = Kind.UNREPEATABLE if uncertain else _kind(keyword, text)
    controls = keyword in _CONTROL or any(_keyword(part) in _CONTROL for part in text.split(";"))
    return Statement(kind, keyword, _functions(text), _all_pins(text, sql), controls)


def is_plain(text: object) -> bool:
    """Whether a statement reads without calling anything: it cannot have written, nor locked."""
    if not isinstance(text, str) or "\\" in text:
        return False
    statement = analyse(text)
    return statement.kind is Kind.READ and not statement.functions


def read_well(texts: Iterable[str], standard_strings: str | None) -> bool:
    """Whether no backslash may have hidden a part of these texts, or shown what is none.

    Args:
        texts: all that a session or transaction has run.
        standard_strings: the setting's value now; ``None``: not known.
    """
    lowered = [text.lower() for text in texts]
    if not any("\\" in text for text in lowered):
        return True
    return standard_strings == "on" and not any(STANDARD_STRINGS in text for text in lowered)


def _keyword(text: str) -> str:
    """The first word, upper case, or ""."""
    match = _WORD.search(text)
    word = match.group() if match else ""
    return word.upper() if word.isascii() else word


@remembered
def ends_transaction(sql: str) -> bool:
    """Whether a text may end the transaction it runs in, and take effect with it."""
    if sql[:6].upper() in _DATA and (";" not in sql or ";" not in (without_strings(sql) or ";")):
        return False  # without reading what may be long
    if len(sql) > LONGEST_READ:
        return True  # it may
    return _ENDS.search(bare(sql)) is not None


def _kind(keyword: str, text: str) -> Kind:
    if keyword in _UNREPEATABLE:
        return Kind.UNREPEATABLE
    if keyword in _WRITES or ESCAPED_NAME.search(text):
        return Kind.WRITE
    if keyword in _READS or keyword == "WITH":
        return Kind.WRITE if _WRITING_WORDS.search(_QUOTED.sub(" x ", text)) else Kind.READ
    if keyword == "EXPLAIN":
        return Kind.OTHER if _ANALYZE.search(text) else Kind.READ
    return Kind.OTHER


def _functions(text: str) -> frozenset[str]:
    """Every name that stands before a parenthesis and may be a function.

    Left out are column lists of common table expressions and whatever follows AS (a column
    alias list or the type of a CAST). Keywords are left to the server (``pg_get_keywords``).
    """
    names = set()
    for match in _CALL.finditer(text):
        name = match.group("name")
        if not name or match.group("as") or follows_a_query(text, match.end() - 1):
            continue
        names.add(name[1:-1].replace('""', '"') if name[0] == '"' else fold(name))
    return frozenset(names)


def follows_a_query(text: str, position: int) -> bool:
    """Whether the parenthesis at ``position`` holds the columns of a common table expression."""
    return _CTE_COLUMNS.match(text, position) is not None


def _all_pins(text: str, sql: str) -> str:
    """As :func:`_pins`, of the first of several statements that does."""
    blocks = False
    for part in text.split(";"):
        keyword = _keyword(part)
        if pins := _pins(keyword, part.strip()):
            return pins
        blocks = blocks or keyword == "DO"
    if blocks and (match := _IN_A_BLOCK.search(sql)) is not None:
        return f"DO with {match.group()}"
    return ""


def left_by_failure(text: str, *, many: bool) -> str:
    """What a statement that failed may have left in its session, or "".

    Locks it took before; what the first of several statements, or of many rows, has done.

    Args:
        text: of the statement.
        many: whether it was sent once for each of many rows.
    """
    # A backslash may hide where a string ends: then what is in it counts as well.
    escapes = "\\" in text
    if _ADVISORY.search(text if escapes else bare(text)) is not None:
        return "an advisory lock, perhaps, in a statement that failed"
    read = analyse(text)
    hides = escapes and ";" in text and _IN_A_BLOCK.search(text) is not None
    if hides or (read.pins and (many or read.kind is Kind.UNREPEATABLE)):
        return "a setting, perhaps, in a statement that failed half-way"
    return ""


def _pins(keyword: str, text: str) -> str:
    """The words that leave something behind in the session, or ""."""
    if keyword in _SESSION_WORDS and not _LOCAL.match(text):
        # Never the value: it may be a secret.
        return " ".join(text.split()[:2]).partition("=")[0]
    if keyword == "UPDATE" and "pg_settings" in text.lower():
        return "UPDATE pg_settings"
    if ESCAPED_NAME.search(text) is not None:
        return 'a name written U&"..."'
    if (match := _ADVISORY.search(text)) is not None:
        return match.group(1)
    if _SEED.search(text) is not None:
        return "setseed"
    # One that is local to its transaction (true) leaves nothing behind. Strings are blanked here:
    # what is in them is neither a call nor an argument of one.
    if len(_SET_CONFIG.findall(text)) > len(_LOCAL_CONFIG.findall(text)):
        return "set_config"
    # Last: these go with a transaction that is rolled back, the others do not.
    return _temporary(keyword, text)


def _temporary(keyword: str, text: str) -> str:
    """The words that make a temporary table or the like which outlives its transaction, or ""."""
    if keyword != "INSERT" and (match := _INTO_TEMPORARY.search(text)) is not None:
        return f"SELECT {match.group()}"
    match = _CREATE_TEMPORARY.match(text) if keyword == "CREATE" else None
    if match is None or _DROPPED.search(_QUOTED.sub(" x ", text)) is not None:
        return ""
    return " ".join(match.group().split())
