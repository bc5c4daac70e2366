"""A policy in words: what it accepts, sentence by sentence, and what its author may not have meant."""

from collections.abc import Iterator, Sequence

from avalon_core.attestation.claims import TcbStatus, Tee
from avalon_core.attestation.policy import (
    INTEL_TEES,
    SIMULATORS,
    VENDORS,
    TrustPolicy,
    empty_parts,
)
from avalon_core.attestation.policy_checks import MAX_SHOWN, duration
from avalon_core.attestation.rules import (
    AllOf,
    AnyOf,
    Field,
    Kind,
    Measurement,
    Measurements,
    Registers,
    Rule,
    Signer,
    walk,
)

_HEX_CHARS = {Tee.SGX: 64, Tee.TDX: 96, Tee.SNP: 96, Tee.NITRO: 96, Tee.TPM: 64}
"""Of a measurement."""


def policy_in_words(policy: TrustPolicy) -> Sequence[str]:
    """What the policy accepts: one sentence each, nothing left out."""
    return tuple(_sentences(policy))


def _sentences(policy: TrustPolicy) -> Iterator[str]:
    if problems := list(empty_parts(policy)):
        yield f"It admits nobody: {'; '.join(problems)}."
    yield from _code(policy.code)
    yield f"Evidence must end in {_roots(policy)}."
    yield f"Kinds of TEE: {_any_of(sorted(policy.tees))}."
    yield (
        "Debug mode is accepted (UNSAFE): operators can look into such TEEs."
        if policy.allow_debug_UNSAFE
        else "A TEE in debug mode is refused."
    )
    yield f"The vendor must judge the platform {_any_of(sorted(policy.tcb_statuses))}, where it judges at all."
    if policy.tcb_statuses - {TcbStatus.UP_TO_DATE}:
        yield (
            "On a platform that is not UpToDate these advisories may be open: "
            f"{', '.join(sorted(policy.advisories)) or 'none'}."
        )
    for tee, parts in policy.minimum_tcb.items():
        versions = ", ".join(f"{part} {least}" for part, least in parts.items())
        yield f"{str(tee).upper()} platforms need at least: {versions}."
    if policy.fmspcs is not None:
        yield f"Intel platforms must be of the family (FMSPC) {_any_of(sorted(policy.fmspcs))}."
    if policy.denied_fmspcs:
        yield f"Intel platforms of these families are refused: {', '.join(sorted(policy.denied_fmspcs))}."
    if policy.minimum_tcb_evaluation is not None:
        yield f"Intel's collateral must be of evaluation {policy.minimum_tcb_evaluation} or later."
    if policy.config_ids is not None:
        yield f"The TEE must be launched with the configuration {_any_of(sorted(policy.config_ids))}."
    if policy.minimum_config_svn is not None:
        yield f"Its configuration must be of version {policy.minimum_config_svn} or later."
    if policy.tenants is not None:
        yield f"The worker must be dedicated to the tenant {_any_of(sorted(policy.tenants))}."
    if policy.pool_owners:
        yield (
            "The manifest of a pool may be changed by the owners with these keys, and they may admit other code: "
            f"{', '.join(sorted(policy.pool_owners))}."
        )
    if policy.maximum_age is not None:
        yield f"Evidence must be at most {duration(policy.maximum_age)} old by its own signed time, and have one."
    yield (
        f"Collateral is still taken {duration(policy.collateral_grace)} after its end."
        if policy.collateral_grace
        else "Collateral must be of date."
    )
    yield (
        "Certificates must have been checked against revocation lists where the vendor issues them."
        if policy.demand_revocation
        else "Evidence is accepted without a look at revocation lists where none was at hand."
    )


def _code(rule: Rule) -> Iterator[str]:
    if not isinstance(rule, AnyOf):
        yield f"The code must be: {rule}."
        return
    if len(rule.parts) == 1:
        yield f"The code must be: {rule.parts[0]}."
        return
    yield f"The code must be one of {len(rule.parts)} alternatives:"
    for number, part in enumerate(rule.parts, start=1):
        yield f"  {number}. {part}"


def _roots(policy: TrustPolicy) -> str:
    names = []
    for root in sorted(policy.roots):
        if root == VENDORS:
            accepted = [
                anchor.name
                for anchor in policy.anchors()
                if not anchor.simulated and anchor.name not in policy.roots and policy.accepts_root(anchor)
            ]
            names.append(f"a vendor's root ({', '.join(sorted(accepted))})")
        elif root == SIMULATORS:
            names.append("a simulator's root (SIMULATED: protects nothing)")
        else:
            names.append(f"the root {root}")
    names += [
        f"your own root {root.name} ({root.sha256}{', SIMULATED' if root.simulated else ''})"
        for root in policy.own_roots
    ]
    return " or ".join(names) or "no root, so that nothing passes"


def _any_of(values: Sequence[str]) -> str:
    if not values:
        return "none (an empty list admits nothing)"
    more = f" or {len(values) - MAX_SHOWN} more" if len(values) > MAX_SHOWN else ""
    return " or ".join(values[:MAX_SHOWN]) + more


def policy_advice(policy: TrustPolicy) -> Sequence[str]:
    """What the policy leaves open that its author may not have meant to: no errors, and no check fails of it."""
    return tuple(_advice(policy))


def _advice(policy: TrustPolicy) -> Iterator[str]:
    rules = list(walk(policy.code))
    if any(isinstance(rule, Signer) and rule.minimum_svn is None for rule in rules):
        yield (
            "A signer without minimum_svn: every old version is accepted, those with known faults too. Set minimum_svn."
        )
    if any(isinstance(rule, Signer) and rule.product_id is None for rule in rules):
        yield (
            "A signer without product_id: whatever else this signer signed is accepted, too. Set product_id where the "
            "platform knows products (SGX does)."
        )
    if any(isinstance(rule, Registers) for rule in rules):
        yield (
            "Registers without a measurement: what is not measured into them may be anything. Name all registers that "
            "your platform measures code into."
        )
    admits_snp = Tee.SNP in policy.tees and _can_be(policy.code, Tee.SNP)
    if admits_snp and not policy.minimum_tcb.get(Tee.SNP):
        yield (
            "SNP is accepted without minimum_tcb.snp: AMD publishes no status, so any firmware version passes. Set "
            "minimums, or take snp out of tees."
        )
    if admits_snp and not _asks(policy.code, "vmpl"):
        yield (
            "SNP reports of every privilege level are accepted. To have only the guest's most privileged one, combine "
            'the code with {field = "vmpl", values = ["0"]}.'
        )
    if Tee.TPM in policy.tees:
        yield "A TPM is accepted: it shows what was started, and keeps no secret from the machine's operator."
    bad = policy.tcb_statuses & {
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        TcbStatus.REVOKED,
    }
    if bad:
        yield f"{_any_of(sorted(bad))} is accepted: known attacks may work against such platforms."
    hardening = policy.tcb_statuses - bad - {TcbStatus.UP_TO_DATE}
    if hardening and not policy.advisories:
        yield (
            f"{_any_of(sorted(hardening))} is accepted, but no advisory may be open: the vendor names one nearly always, "
            "so that hardly anything passes. Name those that you accept in advisories."
        )
    if policy.advisories and policy.tcb_statuses <= {TcbStatus.UP_TO_DATE}:
        yield "advisories has no effect while only UpToDate is accepted: remove it, or accept another status."
    if (policy.fmspcs is not None or policy.denied_fmspcs) and not policy.tees & INTEL_TEES:
        yield "fmspcs has no effect: no kind of TEE of Intel's is accepted."
    for tee in policy.minimum_tcb:
        if tee not in policy.tees:
            yield f"minimum_tcb.{tee} has no effect: {tee} is not accepted."


def _asks(rule: Rule, field: str) -> bool:
    """Whether every alternative of the rule asks for the field."""
    if isinstance(rule, AllOf):
        return any(_asks(part, field) for part in rule.parts)
    if isinstance(rule, AnyOf):
        return bool(rule.parts) and all(_asks(part, field) for part in rule.parts)
    return isinstance(rule, Field) and rule.name == field


def _can_be(rule: Rule, tee: Tee) -> bool:
    """Whether evidence of this kind can match: measurements of the kinds differ in length."""
    if rule.is_empty:
        return False
    match rule:
        case AllOf():
            return all(_can_be(part, tee) for part in rule.parts)
        case AnyOf():
            return any(_can_be(part, tee) for part in rule.parts)
        case Measurements():
            return any(len(measurement) == _HEX_CHARS[tee] for measurement in rule.allowed)
        case Measurement():
            return len(rule.value) == _HEX_CHARS[tee]
        case Kind():
            return rule.tee is tee
        case _:
            return True
