"""A server's certificate: what it says, and whether a host name is among its names."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

#: X509_V_ERR_CERT_HAS_EXPIRED: of any certificate in the chain.
EXPIRED: Final = 10
# How RFC 4514 shortens what OpenSSL writes in full.
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        subject, issuer: distinguished names as RFC 4514 writes them.
        common_name: of the subject, "" if it has none.
        dns_names, ip_addresses: the subject's alternative names.
        not_before, not_after: in UTC.
        self_signed: its issuer is its subject.
        fingerprint: SHA-256 of the whole, as hexadecimal digits.
    """

    subject: str
    issuer: str
    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    self_signed: bool
    fingerprint: str

    def valid_at(self, now: datetime) -> bool:
        """Whether it is valid at this time (aware)."""
        return self.not_before <= now <= self.not_after

    @property
    def names(self) -> tuple[str, ...]:
        """What a host may be called to be matched: see :func:`matches`."""
        alternative = self.dns_names + self.ip_addresses
        return alternative or ((self.common_name,) if self.common_name else ())

    def matches(self, host: str) -> bool:
        """Whether ``sslmode=verify-full`` takes it for this host name or address.

        As libpq does (manual, "Client Verification of Server Certificates"): the common name
        counts where no alternative name of the host's kind is present, and a leading "*" stands
        for one label. libpq compares addresses since version 15.
        """
        address = _address(host)
        if address and address in map(_address, self.ip_addresses):
            return True
        if any(_fits(name, host) for name in self.dns_names):
            return True
        present = self.ip_addresses if address else self.dns_names
        return not present and bool(self.common_name) and _fits(self.common_name, host)


def read(secure: ssl.SSLSocket | ssl.SSLObject) -> tuple[Certificate | None, str]:
    """Return the peer's certificate and "", or None and a sentence that says why it is not read.

    ``ssl`` takes a certificate apart only where it demands one, and shakes hands only with what it
    then trusts. So the hands are shaken as the socket's context says, and afterwards another
    context takes its place, which asks nobody anything any more.
    """
    secure.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        der, fields = secure.getpeercert(binary_form=True), secure.getpeercert()
        if not der or not fields:
            return None, "The server sent no certificate."
        return _certificate(der, fields), ""
    except (LookupError, OSError, OverflowError, TypeError, ValueError):
        return None, "The server's certificate is malformed: it was not checked."


def _certificate(der: bytes, fields: Mapping[str, Any]) -> Certificate:
    """Of what :meth:`ssl.SSLSocket.getpeercert` returns in its two forms."""
    subject, issuer = fields["subject"], fields["issuer"]
    alternative = fields.get("subjectAltName", ())
    common = [value for part in subject for name, value in part if name == "commonName"]
    return Certificate(
        subject=_distinguished(subject),
        issuer=_distinguished(issuer),
        common_name=common[0] if common else "",
        dns_names=tuple(value for kind, value in alternative if kind == "DNS"),
        ip_addresses=tuple(
            _address(value.strip()) or value.strip()
            for kind, value in alternative
            if kind == "IP Address"
        ),
        not_before=_moment(fields["notBefore"]),
        not_after=_moment(fields["notAfter"]),
        self_signed=subject == issuer,
        fingerprint=hashlib.sha256(der).hexdigest(),
    )


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _distinguished(name: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A name as RFC 4514 writes it: the last part first."""
    parts = (
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in part)
        for part in name
    )
    return ",".join(reversed(list(parts)))


def _escaped(value: str) -> str:
    escaped = re.sub(r'([,+"\\<>;])', r"\\\1", value)
    return re.sub(r"^([ #])|( )$", r"\\\g<0>", escaped)


def _fits(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower(), host.lower()
    if not pattern.startswith("*."):
        return pattern == host
    return bool(re.fullmatch(rf"[^.]+{re.escape(pattern[1:])}", host))


def _address(text: str) -> str:
    """An address in the one form in which two may be compared, "" for a name."""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def chain_expired(code: int, certificate: Certificate | None, now: datetime) -> bool:
    """Whether OpenSSL's "has expired" is about a CA: the certificate itself is valid."""
    return code == EXPIRED and certificate is not None and certificate.valid_at(now)


def days_left(certificate: Certificate, now: datetime) -> float:
    """Return the days until a certificate expires, negative if it has."""
    return (certificate.not_after - now).total_seconds() / 86_400


def validity(certificate: Certificate, now: datetime) -> str:
    """Return how long a certificate is valid, to be continued after "The certificate"."""
    left, spent = certificate.not_after, abs(certificate.not_after - now)
    if now < certificate.not_before:
        return f"is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
    much = f"{spent.days} days" if spent.days > 1 else f"{spent.total_seconds() / 3600:.0f} hours"
    if now > left:
        return f"expired {much} ago, on {left:%Y-%m-%d %H:%M} UTC"
    return f"expires in {much}, on {left:%Y-%m-%d %H:%M} UTC"
