"""A server's certificate: what it says, and whether a host name is among its names.

Reading needs ``cryptography`` (extra ``diagnose``); without it :func:`read` says so.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

#: X509_V_ERR_CERT_HAS_EXPIRED: of any certificate in the chain.
EXPIRED: Final = 10
MISSING: Final = 'The certificate was not read: run pip install "django-resilient-pg[diagnose]".'


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Attributes:
        subject, issuer: distinguished names as RFC 4514 writes them.
        common_name: of the subject, "" if it has none.
        dns_names, ip_addresses: the subject's alternative names.
        not_before, not_after: in UTC.
        self_signed: signed with its own key, by no authority.
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


def read(der: bytes) -> tuple[Certificate | None, str]:
    """Return a certificate and "", or None and a sentence that says why it could not be read."""
    try:
        from cryptography import x509
    except ImportError:
        return None, MISSING
    try:
        return _certificate(x509.load_der_x509_certificate(der)), ""
    except ValueError as error:
        return None, f"The certificate cannot be read: {error}."


def _certificate(found: x509.Certificate) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    common = found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    dns_names, ip_addresses = _alternative_names(found)
    return Certificate(
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        common_name=str(common[0].value) if common else "",
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        self_signed=_self_signed(found),
        fingerprint=found.fingerprint(hashes.SHA256()).hex(),
    )


def _alternative_names(found: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return tuple(names.get_values_for_type(x509.DNSName)), tuple(map(str, addresses))


def _self_signed(found: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    if found.issuer != found.subject:
        return False
    try:
        found.verify_directly_issued_by(found)
    except (InvalidSignature, TypeError, UnsupportedAlgorithm, ValueError):
        return False
    return True


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
    """Whether OpenSSL's "has expired" is about an authority: the certificate itself is good."""
    return code == EXPIRED and certificate is not None and certificate.valid_at(now)


def days_left(certificate: Certificate, now: datetime | None = None) -> float:
    """Return the days until a certificate expires, negative if it has."""
    moment = now or datetime.now(UTC)
    return (certificate.not_after - moment).total_seconds() / 86_400
