"""Quotes of a TPM 2.0: parsed, verified up to a known root, and compared with the log of what was measured."""

from avalon_core.attestation.tpm.event_log import EventLog, parse_event_log, replay
from avalon_core.attestation.tpm.pcrs import PcrValues, decode_pcrs, encode_pcrs, pcr_policy_digest
from avalon_core.attestation.tpm.structures import (
    BankSelection,
    Quote,
    QuoteSignature,
    encode_selection,
    parse_quote,
    parse_signature,
)
from avalon_core.attestation.tpm.verifier import EVENT_LOG, OS_EVENT_LOG, PCRS, TPM, TpmFormat

__all__ = [
    "EVENT_LOG",
    "OS_EVENT_LOG",
    "PCRS",
    "TPM",
    "BankSelection",
    "EventLog",
    "PcrValues",
    "Quote",
    "QuoteSignature",
    "TpmFormat",
    "decode_pcrs",
    "encode_pcrs",
    "encode_selection",
    "parse_event_log",
    "parse_quote",
    "parse_signature",
    "pcr_policy_digest",
    "replay",
]
