"""What the words of a report mean, for people who read their first one: statuses, advisories, and every check by name.

Nothing here decides anything. Meanings are those of the vendors' own texts (Intel, *SGX and TDX TCB Recovery
guidance*, and the PCS v4 description of ``tcbStatus``), in plain words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from avalon_core.attestation.claims import TcbStatus

_INTEL = re.compile(r"INTEL-SA-[0-9]{5}\Z")
_AMD = re.compile(r"AMD-SB-[0-9]{4,5}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusExplained:
    """A TCB status in plain words."""

    status: TcbStatus
    meaning: str
    who: str
    """Who can mend it."""

    remedy: str
    """What to do, for both sides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisoryExplained:
    """An advisory in plain words."""

    name: str
    meaning: str
    """What it is about; empty where this version does not know it."""

    address: str
    """The vendor's page, by its well-known form; empty where the form is not known."""


_STATUSES: Mapping[TcbStatus, StatusExplained] = MappingProxyType(
    {
        explained.status: explained
        for explained in (
            StatusExplained(
                status=TcbStatus.UP_TO_DATE,
                meaning="The platform has every security update that the vendor asks for.",
                who="nobody has to",
                remedy="Nothing is to be done.",
            ),
            StatusExplained(
                status=TcbStatus.SW_HARDENING_NEEDED,
                meaning="The platform is up to date, but some faults of the processor can only be countered by how "
                "the code in the TEE is built.",
                who="whoever builds the worker",
                remedy="Ask who built the worker whether it was built with the mitigations that the advisories "
                "name; if so, accept SWHardeningNeeded and those advisories in the policy.",
            ),
            StatusExplained(
                status=TcbStatus.CONFIGURATION_NEEDED,
                meaning="The firmware is up to date, but a setting of the platform is less safe than it should be, "
                "such as hyper-threading being on.",
                who="the operator, in the BIOS settings",
                remedy="The operator changes the settings that the advisories name, and registers the platform "
                "anew; or accept ConfigurationNeeded and those advisories in the policy.",
            ),
            StatusExplained(
                status=TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
                meaning="The firmware is up to date; a setting of the platform should be changed, and the code in "
                "the TEE should be built with mitigations.",
                who="the operator, in the BIOS settings, and whoever builds the worker",
                remedy="The operator changes the settings and the builder confirms the mitigations that the "
                "advisories name; then accept the status and those advisories in the policy.",
            ),
            StatusExplained(
                status=TcbStatus.OUT_OF_DATE,
                meaning="The platform lacks security updates: known attacks may work against it.",
                who="the operator",
                remedy="The operator installs the current BIOS and microcode, and registers the platform anew. "
                "Until then send nothing that matters.",
            ),
            StatusExplained(
                status=TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
                meaning="The platform lacks security updates, and a setting of it is less safe than it should be.",
                who="the operator",
                remedy="The operator installs the current BIOS and microcode, changes the settings that the "
                "advisories name, and registers the platform anew. Until then send nothing that matters.",
            ),
            StatusExplained(
                status=TcbStatus.TD_RELAUNCH_ADVISED,
                meaning="The platform was updated while this virtual machine ran; the machine was launched under "
                "the older state.",
                who="the operator",
                remedy="The operator stops the trust domain and launches it again, and it makes new evidence.",
            ),
            StatusExplained(
                status=TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
                meaning="The platform was updated while this virtual machine ran, and a setting of the platform is "
                "less safe than it should be.",
                who="the operator",
                remedy="The operator changes the settings that the advisories name and launches the trust domain "
                "again.",
            ),
            StatusExplained(
                status=TcbStatus.REVOKED,
                meaning="The vendor has withdrawn its trust in this platform: its keys may be in the wrong hands.",
                who="nobody, for this platform",
                remedy="Do not use this worker. The operator has to move it to another platform.",
            ),
        )
    }
)

_ADVISORIES: Mapping[str, str] = MappingProxyType(
    {
        "INTEL-SA-00088": "speculative execution past bounds and branches (Spectre)",
        "INTEL-SA-00115": "speculative store bypass and rogue system register read",
        "INTEL-SA-00161": "reading enclave memory through the first-level cache (Foreshadow, L1TF)",
        "INTEL-SA-00233": "sampling of processor buffers (MDS)",
        "INTEL-SA-00270": "asynchronous aborts of transactions (TAA)",
        "INTEL-SA-00289": "faults by changed voltage (Plundervolt): undervolting must be locked in the BIOS",
        "INTEL-SA-00320": "sampling of special registers, random numbers among them (SRBDS)",
        "INTEL-SA-00334": "injection of values into loads (LVI): the code has to be built with mitigations",
        "INTEL-SA-00615": "stale data in buffers of memory-mapped devices (MMIO): microcode, and hyper-threading off or "
        "mitigations in the code",
        "INTEL-SA-00657": "stale data read through the interrupt controller (AEPIC leak)",
        "INTEL-SA-00828": "sampling of gathered data (Downfall, GDS)",
    }
)

_CHECKS: Mapping[str, str] = MappingProxyType(
    {
        "evidence": "Whether there is evidence of a kind that can be verified at all.",
        "document": "Whether the bytes have the shape that the vendor published for this kind of evidence.",
        "report": "Whether the bytes have the shape that the vendor published for this kind of report.",
        "signature": "Whether the platform's key signed exactly these bytes. A single changed bit fails it.",
        "chain": "Whether certificates lead from the key that signed to a root, each signed by the next.",
        "root": "Whether that root is one that is known here, by the digest of its certificate.",
        "validity": "Whether every certificate of that chain was valid at the time for which the report speaks.",
        "revocation": "Whether the vendor has withdrawn one of these certificates.",
        "leaf": "Whether the certificate that signed was given out for this purpose.",
        "time": "Whether the evidence's own time is not after the time for which the report speaks.",
        "collateral": "Whether the vendor's signed data about this platform is there, fits it, and is of date.",
        "tcb": "Whether the vendor's list of security versions knows the state of this platform.",
        "qe identity": "Whether the vendor's own quoting code made this quote, in a version that it knows.",
        "requester": "Whether the attested code itself asked for this evidence, and not the host around it.",
        "key certificate": "Whether there is a certificate of the key that signed.",
        "product": "Whether the certificates are of the product line that made the evidence.",
        "chip": "Whether the certificate belongs to the very chip that made the evidence.",
        "platform tcb": "Whether the key belongs to the security versions that the evidence reports.",
        "quote status": "Whether the vendor's service vouches for the quote at all.",
        "format": "Whether the bytes have the shape that the vendor published for this kind of quote.",
        "quote signature": "Whether the platform's attestation key signed exactly these bytes.",
        "qe binding": "Whether the vendor's quoting code vouches for that attestation key.",
        "qe signature": "Whether the vendor's certificate signed the word of the quoting code.",
        "attributes": "Whether a flag is set that would leave the TEE open, such as debug mode.",
        "verification": "Whether the library that verifies quotes agrees that everything holds.",
        "envelope": "Whether the cloud's wrapping of the hardware's report has its known shape.",
        "statement": "Whether the hardware's report covers the statement in which the virtual TPM's key stands.",
        "td report": "Whether the quote is of the very machine whose report is in the wrapping.",
        "tpm quote": "Whether the virtual TPM's own quote can be read.",
        "tpm signature": "Whether the key that the hardware vouches for signed the virtual TPM's quote.",
        "pcrs": "Whether the values of the registers are those that the virtual TPM signed.",
        "pcr selection": "Whether registers were quoted at all, by a hash that is strong enough.",
        "pcr values": "Whether the values of the registers are exactly those that were signed.",
        "event data": "Whether the list of what was started has the digests of its own entries.",
        "event log": "Whether the list of what was started adds up to the registers that were signed.",
        "policy": "Whether there is a policy that somebody can satisfy. Without one nothing is accepted.",
        "accepted root": "Whether the policy accepts this vendor's (or simulator's) word.",
        "tee": "Whether the policy accepts this kind of protection.",
        "debug": "Whether the operator can look into the TEE. If so, nothing in it is secret.",
        "code identity": "Whether the code that runs is code that the policy names. This is what attestation is for.",
        "tcb status": "How the vendor judges the platform's security updates and settings, and whether that will do.",
        "advisories": "Which known faults are open on this platform, and whether the policy accepts each of them.",
        "minimum tcb": "Whether the platform's parts have at least the versions that the policy asks for.",
        "fmspc": "Whether the policy admits this family of platforms.",
        "tcb evaluation": "How recent the vendor's knowledge is by which the platform was judged.",
        "config id": "Whether the TEE was launched for this tenant or deployment.",
        "config svn": "Whether the TEE was launched with a current configuration.",
        "evidence age": "Whether the evidence is recent enough, by its own signed time.",
        "collateral age": "Whether all that the verdict rests on is still of date.",
        "revocation demanded": "Whether withdrawn certificates would have been noticed, as the policy demands.",
        "report data": "Whether the evidence was made for these keys and this request.",
        "pool manifest": "Whether the record carries the pool's manifest that the evidence commits to.",
        "pool code": "Whether the policy admits all code that the pool's manifest admits.",
        "pool roots": "Whether the policy accepts everybody who may vouch for an enclave of the pool.",
        "pool platforms": "Whether the policy accepts the states of platforms that the pool's manifest accepts.",
        "pool owners": "Whether somebody whom the policy does not know can change the pool's manifest.",
        "tenant": "Whether the worker is dedicated to a tenant whom the policy names.",
        "worker identity": "Whether the record is that of the worker that was asked for.",
        "simulation told": "Whether a worker with simulated evidence says itself that it is simulated.",
        "key binding": "Whether the keys in the record are those that the attested code made.",
        "encryption keys": "Whether the attested code signed the keys that data is sealed to.",
    }
)


def explain_status(status: TcbStatus) -> StatusExplained:
    """A TCB status in plain words: what it means, who can mend it, and how."""
    return _STATUSES[status]


def explain_advisory(name: str) -> AdvisoryExplained:
    """An advisory in plain words, with the vendor's page. Any name is taken; unknown ones get no meaning."""
    address = ""
    if _INTEL.match(name):
        address = "https://www.intel.com/content/www/us/en/security-center/advisory/" + name.lower() + ".html"
    elif _AMD.match(name):
        address = "https://www.amd.com/en/resources/product-security/bulletin/" + name.lower() + ".html"
    return AdvisoryExplained(name=name, meaning=_ADVISORIES.get(name, ""), address=address)


def explain_check(name: str) -> str:
    """What a check of this name asks, in one sentence; empty for a name that is not known."""
    return _CHECKS.get(name, "")


def explained_checks() -> frozenset[str]:
    """The names of all checks that are explained."""
    return frozenset(_CHECKS)
