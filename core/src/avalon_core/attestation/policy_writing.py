"""Trust policies as TOML and JSON. What is written here loads to an equal policy, and writing that again changes nothing.

Members that ask nothing are left out, but for those on which everything rests: roots, kinds, statuses, revocation. So a
policy that was written says what it means even where a later version has other defaults.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.policy_text import POLICY_VERSION
from avalon_core.attestation.roots import TrustAnchor
from avalon_core.attestation.rules import (
    AllOf,
    AnyMeasurementUNSAFE,
    AnyOf,
    Field,
    Kind,
    Measurement,
    Measurements,
    PolicyFormatError,
    Registers,
    Rule,
    Signer,
)


def dump_policy_json(policy: TrustPolicy) -> str:
    """The policy in JSON, indented. Loading it gives an equal policy."""
    return json.dumps(policy_to_object(policy), indent=2, ensure_ascii=False) + "\n"


def dump_policy_toml(policy: TrustPolicy) -> str:
    """The policy in TOML. Loading it gives an equal policy."""
    return "".join(_toml_document(policy_to_object(policy)))


def policy_to_object(policy: TrustPolicy) -> dict[str, Any]:
    """The policy as values of JSON. Members that ask nothing are left out; lists are sorted.

    Raises:
        PolicyFormatError: it holds a rule of a class that has no text form.
    """
    value: dict[str, Any] = {"version": POLICY_VERSION}
    if policy.name:
        value["name"] = policy.name
    value["roots"] = sorted(policy.roots)
    value["tees"] = sorted(policy.tees)
    value["tcb_statuses"] = sorted(policy.tcb_statuses)
    value["demand_revocation"] = policy.demand_revocation
    for name in ("advisories", "fmspcs", "denied_fmspcs", "config_ids", "pool_owners", "tenants"):
        values = getattr(policy, name)
        # An empty allow-list says something; an empty list of what else is accepted or denied does not.
        if values or (values is not None and name in ("fmspcs", "config_ids", "tenants")):
            value[name] = sorted(values)
    for name in ("minimum_config_svn", "minimum_tcb_evaluation", "maximum_age"):
        if getattr(policy, name) is not None:
            value[name] = getattr(policy, name)
    if policy.collateral_grace:
        value["collateral_grace"] = policy.collateral_grace
    if policy.allow_debug_UNSAFE:
        value["allow_debug_UNSAFE"] = True
    if isinstance(policy.code, Measurements):
        value["measurements"] = sorted(policy.code.allowed)
    if policy.minimum_tcb:
        value["minimum_tcb"] = {str(tee): dict(parts) for tee, parts in policy.minimum_tcb.items()}
    if policy.own_roots:
        value["own_roots"] = [_root_to_object(root) for root in policy.own_roots]
    if isinstance(policy.code, AnyOf):
        if policy.code.parts:
            value["code"] = [_rule_to_object(part) for part in policy.code.parts]
    elif not isinstance(policy.code, Measurements):
        value["code"] = _rule_to_object(policy.code)
    return value


def _root_to_object(root: TrustAnchor) -> dict[str, Any]:
    value: dict[str, Any] = {"name": root.name, "sha256": root.sha256}
    if root.simulated:
        value["simulated"] = True
    if root.description:
        value["description"] = root.description
    return value


def _rule_to_object(rule: Rule) -> dict[str, Any]:
    match rule:
        case AllOf():
            return {"all_of": [_rule_to_object(part) for part in rule.parts]}
        case AnyOf():
            return {"any_of": [_rule_to_object(part) for part in rule.parts]}
        case Measurements():
            return {"measurements": sorted(rule.allowed)}
        case Measurement():
            value: dict[str, Any] = {"measurement": rule.value}
            if rule.label:
                value["label"] = rule.label
            if rule.registers:
                value["registers"] = dict(rule.registers)
            return value
        case Registers():
            return {"registers": dict(rule.values)}
        case Signer():
            value = {"signer": rule.signer}
            for name in ("product_id", "minimum_svn"):
                if getattr(rule, name) is not None:
                    value[name] = getattr(rule, name)
            return value
        case Kind():
            return {"tee": str(rule.tee)}
        case Field():
            return {"field": rule.name, "values": sorted(rule.values)}
        case AnyMeasurementUNSAFE():
            return {"any_measurement_UNSAFE": True}
        case _:
            raise PolicyFormatError(f"a rule of the class {type(rule).__name__} has no text form")


def _toml_document(value: Mapping[str, Any]) -> Iterable[str]:
    """Plain members first, then tables: TOML gives a plain member to the last table before it."""
    for name, member in value.items():
        if not _is_table(member):
            yield f"{name} = {_toml_value(member, breaks=True)}\n"
    for name, member in value.items():
        if name == "minimum_tcb":
            for tee, parts in member.items():
                yield f"\n[minimum_tcb.{tee}]\n"
                yield from _toml_members(parts)
        elif isinstance(member, dict):
            yield f"\n[{name}]\n"
            yield from _toml_members(member)
        elif _is_table(member):
            for entry in member:
                yield f"\n[[{name}]]\n"
                yield from _toml_members(entry)


def _is_table(member: Any) -> bool:
    return isinstance(member, dict) or (
        isinstance(member, list) and bool(member) and isinstance(member[0], dict)
    )


def _toml_members(table: Mapping[str, Any]) -> Iterable[str]:
    for name, member in table.items():
        yield f"{name} = {_toml_value(member, breaks=True)}\n"


def _toml_value(value: Any, *, breaks: bool = False) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's; DEL is the one character that only TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        members = (f"{name} = {_toml_value(member)}" for name, member in value.items())
        return "{ " + ", ".join(members) + " }" if value else "{}"
    entries = [_toml_value(entry) for entry in cast("list[Any]", value)]
    if breaks and sum(map(len, entries)) > 80:
        return "[\n" + "".join(f"    {entry},\n" for entry in entries) + "]"
    return "[" + ", ".join(entries) + "]"
