"""What a document says of itself, field by field, with nothing verified: for people who wonder what a file is."""

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from cryptography import x509

from avalon_core.attestation.chains import name_of
from avalon_core.attestation.evidence import Evidence
from avalon_core.errors import EvidenceError

MAX_BYTES_SHOWN = 64
"""Longer values are cut: certificates and keys would drown the rest."""

MAX_DEPTH = 4
MAX_ENTRIES_SHOWN = 64
_TEXT_CHARS = 300


def inspect(evidence: Evidence) -> Sequence[tuple[str, str]]:
    """Every field of the document by its name, in the document's order; bytes as hex. NOTHING IS VERIFIED.

    Raises:
        EvidenceError: the document cannot be parsed.
    """
    parser = _PARSERS.get(evidence.format)
    if parser is None:
        raise EvidenceError(f"{evidence.format} evidence cannot be shown by this version, only verified")
    fields = list(_flat("", parser(evidence), 0))
    if evidence.signature:
        fields.append(("signature", _shown(evidence.signature)))
    for index, der in enumerate(evidence.certificates):
        fields.append((f"certificates[{index}]", _certificate(der)))
    fields += [
        (f"attachments.{name}", f"{len(data)} bytes") for name, data in sorted(evidence.attachments.items())
    ]
    return fields


def _nitro(evidence: Evidence) -> object:
    from avalon_core.attestation.nitro.cose import parse_sign1
    from avalon_core.attestation.nitro.document import parse_document

    return parse_document(parse_sign1(evidence.document).payload)


def _snp(evidence: Evidence) -> object:
    from avalon_core.attestation.snp import parse_report

    return parse_report(evidence.document)


def _epid(evidence: Evidence) -> object:
    from avalon_core.attestation.sgx_epid import parse_report
    from avalon_core.attestation.sgx_epid.proof_data import unpacked

    return parse_report(unpacked(evidence).document)


def _tpm(evidence: Evidence) -> object:
    from avalon_core.attestation.tpm import parse_quote

    return parse_quote(evidence.document)


def _azure(evidence: Evidence) -> object:
    from avalon_core.attestation.azure import ReportKind, parse_envelope
    from avalon_core.attestation.snp import parse_report

    envelope = parse_envelope(evidence.document)
    return {
        "kind": envelope.kind,
        "hash_kind": envelope.hash_kind,
        "report": parse_report(envelope.report) if envelope.kind is ReportKind.SNP else envelope.report,
        "statement": envelope.statement.decode("ascii", "replace"),
    }


def _dcap(evidence: Evidence) -> object:
    from avalon_core.attestation.dcap.quotes import BodyType, parse_quote, parse_sgx_report
    from avalon_core.attestation.tdx.report import parse_td_report

    quote = parse_quote(evidence.document)
    is_sgx = quote.body_type is BodyType.SGX_REPORT
    return {
        "header": quote.header,
        "body": parse_sgx_report(quote.body) if is_sgx else parse_td_report(quote.body, quote.body_type),
        "signature": quote.signature,
        "trailing": f"{quote.trailing} bytes after the signature",
    }


_PARSERS: Final[Mapping[str, Callable[[Evidence], object]]] = {
    "sgx-dcap": _dcap,
    "tdx": _dcap,
    "snp": _snp,
    "azure": _azure,
    "nitro": _nitro,
    "sgx-epid": _epid,
    "tpm": _tpm,
}
"""By the name of the format. Each parser is imported when it is asked for."""


def _flat(name: str, value: object, depth: int) -> Iterator[tuple[str, str]]:
    """The value's parts, each under its path: ``header.version``."""
    members = _members(value)
    if members is None or depth > MAX_DEPTH:
        yield name or "value", _shown(value)
        return
    for index, (part, member) in enumerate(members):
        if index >= MAX_ENTRIES_SHOWN:
            yield name, f"and {len(members) - MAX_ENTRIES_SHOWN} more"
            return
        path = part if not name else f"{name}{part}" if part.startswith("[") else f"{name}.{part}"
        yield from _flat(path, member, depth + 1)


def _members(value: object) -> Sequence[tuple[str, Any]] | None:
    """Name and value of each part; None where the value has no parts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [
            (field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        ]
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, Mapping):
        return [(str(name), member) for name, member in value.items()]
    if isinstance(value, list | tuple) and any(_members(entry) is not None for entry in value):
        return [(f"[{index}]", entry) for index, entry in enumerate(value)]
    return None


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        if len(raw) > MAX_BYTES_SHOWN:
            return f"{raw[:MAX_BYTES_SHOWN].hex()}... ({len(raw)} bytes)"
        return raw.hex() or "empty"
    if isinstance(value, x509.Certificate):
        return _certificate_words(value)
    if isinstance(value, enum.Enum):
        return f"{value.name.lower()} ({value.value})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, list | tuple | frozenset | set):
        entries = (
            sorted(map(_shown, value)) if isinstance(value, frozenset | set) else list(map(_shown, value))
        )
        return ", ".join(entries)[:_TEXT_CHARS] or "none"
    text = str(value)
    return text if len(text) <= _TEXT_CHARS else f"{text[:_TEXT_CHARS]}... ({len(text)} characters)"


def _certificate(der: bytes) -> str:
    from avalon_core.attestation.chains import load_certificate

    try:
        return _certificate_words(load_certificate(der))
    except EvidenceError as exc:
        return exc.message


def _certificate_words(certificate: x509.Certificate) -> str:
    return (
        f"{name_of(certificate)}, valid {certificate.not_valid_before_utc:%Y-%m-%d} to "
        f"{certificate.not_valid_after_utc:%Y-%m-%d}"
    )
