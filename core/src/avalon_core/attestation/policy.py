"""What a requester accepts, as data: roots, code, kinds of TEE, state of the platform, age. Empty accepts nothing.

A policy is a frozen record; how it is judged is in :mod:`avalon_core.attestation.appraisal`, its text forms are in
:mod:`avalon_core.attestation.policy_text`. Three ways to be unsafe exist, and each is loud: a simulator's root,
``allow_debug_UNSAFE`` and :class:`~avalon_core.attestation.rules.AnyMeasurementUNSAFE`. Production refuses all three.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from avalon_core.attestation.claims import TcbStatus, Tee
from avalon_core.attestation.known_roots import VENDOR_ROOTS
from avalon_core.attestation.roots import TrustAnchor, TrustAnchors
from avalon_core.attestation.rules import (
    MAX_VALUES,
    AnyMeasurementUNSAFE,
    AnyOf,
    Measurements,
    PolicyFormatError,
    Rule,
    require_bounds,
    require_count,
    require_hex,
    require_text,
    require_word,
    walk,
)
from avalon_core.errors import PolicyViolation
from avalon_core.simulator.roots import SIMULATOR_ROOTS

VENDORS = "vendors"
"""In the place of a root's name: every vendor's root that is known here, but for :data:`ENDED_ROOTS`."""

ENDED_ROOTS = frozenset({"intel-ias"})
"""Roots of services that are no more. Their verdicts speak of a day long past and nobody mends them: an old report of
a platform that has been broken since would still pass. Who wants them names them."""

SIMULATORS = "simulators"
"""In the place of a root's name: every published root of the simulator. Protects nothing."""

PROTECTING_TEES = frozenset({Tee.SGX, Tee.TDX, Tee.SNP, Tee.NITRO})
"""Kinds that keep the operator from reading memory. A TPM does not, so that it has to be named."""

INTEL_TEES = frozenset({Tee.SGX, Tee.TDX})
"""Kinds that have an FMSPC and a TCB status of Intel's."""

FMSPC_HEX_CHARS = 12
MAX_TCB_COMPONENTS = 64
_ROOT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
_ADVISORY = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}\Z")
_NO_MINIMUMS: Mapping[Tee, Mapping[str, int]] = MappingProxyType({})
_EMPTY_REMEDY = "name the measurements that you built or were told"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """What is accepted. The policy without arguments accepts nothing.

    Raises:
        PolicyFormatError: a value is not of its form, or a rule would admit any code without saying so.
    """

    name: str = ""
    """For reports: ``heart study, production``."""

    code: Rule = field(default_factory=AnyOf)
    """Which code may run. See :mod:`avalon_core.attestation.rules`."""

    roots: Set[str] = frozenset({VENDORS})
    """Names of known roots (``intel-sgx``), :data:`VENDORS`, :data:`SIMULATORS`. Empty accepts none of them."""

    own_roots: Sequence[TrustAnchor] = ()
    """Further roots, by the digest of their certificate."""

    tees: Set[Tee] = PROTECTING_TEES
    """Kinds of TEE; empty accepts none."""

    allow_debug_UNSAFE: bool = False  # noqa: N815 - loud
    """Accept a TEE that its operator can look into. Protects nothing."""

    tcb_statuses: Set[TcbStatus] = frozenset({TcbStatus.UP_TO_DATE})
    """The vendor's judgements of the platform that are accepted; empty accepts none.

    It is asked of Intel's platforms, and of others whose evidence carries a status.
    """

    advisories: Set[str] = frozenset()
    """Advisories that may be open on a platform whose status is not UpToDate: ``INTEL-SA-00615``."""

    fmspcs: Set[str] | None = None
    """Intel platforms by FMSPC (12 lower-case hex digits); None accepts every one, empty none."""

    denied_fmspcs: Set[str] = frozenset()
    """Intel platforms that are refused, whatever else holds."""

    config_ids: Set[str] | None = None
    """CONFIGID, MRCONFIGID or HOST_DATA in hex: the tenant's or deployment's binding. None asks nothing, empty accepts
    none. A shorter value is padded with zeros at its end, as the hardware does."""

    minimum_config_svn: int | None = None
    """SGX CONFIGSVN; kinds that have none are refused where it is asked."""

    minimum_tcb: Mapping[Tee, Mapping[str, int]] = field(default_factory=lambda: _NO_MINIMUMS)
    """Least security versions of the platform's parts, by kind: ``{Tee.SNP: {"bootloader": 4, "microcode": 219}}``."""

    minimum_tcb_evaluation: int | None = None
    """The least tcbEvaluationDataNumber of Intel's collateral: how recent the knowledge is that judged the platform."""

    maximum_age: int | None = None
    """Seconds since the evidence's own signed time. Evidence that carries no time cannot be checked for it."""

    collateral_grace: int = 0
    """Seconds for which collateral is still taken after its end."""

    demand_revocation: bool = True
    """Refuse evidence whose certificates could not be checked against revocation lists."""

    pool_owners: Set[str] = frozenset()
    """Whoever may change a pool's manifest, and so admit other code: hex of SHA-256 over the owner's key in PEM. A pool
    that nobody can change needs none."""

    tenants: Set[str] | None = None
    """Tenants to whom a worker may be dedicated: its record's binding must name one. None asks nothing, empty accepts
    none."""

    def __post_init__(self) -> None:
        for name in ("roots", "tees", "tcb_statuses", "advisories", "denied_fmspcs", "pool_owners"):
            self._freeze(name)
        for name in ("fmspcs", "config_ids", "tenants"):
            if getattr(self, name) is not None:
                self._freeze(name)
        object.__setattr__(self, "own_roots", tuple(sorted(self.own_roots, key=lambda root: root.name)))
        minimums = {
            tee: MappingProxyType(dict(sorted(self.minimum_tcb[tee].items())))
            for tee in sorted(self.minimum_tcb)
        }
        object.__setattr__(self, "minimum_tcb", MappingProxyType(minimums))
        self._require_form()
        require_bounds(self.code)
        if not self.code.is_grounded:
            raise PolicyFormatError(
                f"the rule {str(self.code)[:200]!r} lets any code pass: add a measurement, registers or a signer to "
                "each alternative, or say any_measurement_UNSAFE"
            )

    def _freeze(self, name: str) -> None:
        values = frozenset(getattr(self, name))
        if len(values) > MAX_VALUES:
            raise PolicyFormatError(f"{name}: got {len(values)} values, expected at most {MAX_VALUES}")
        object.__setattr__(self, name, values)

    def _require_form(self) -> None:
        require_text(self.name, "name")
        for root in self.roots:
            if not _ROOT.match(root):
                raise PolicyFormatError(f"roots: got {root[:40]!r}, expected a name such as intel-sgx")
        _require_own_roots(self.own_roots)
        for advisory in self.advisories:
            if not _ADVISORY.match(advisory):
                raise PolicyFormatError(
                    f"advisories: got {advisory[:40]!r}, expected a name such as INTEL-SA-00615"
                )
        for fmspc in (*(self.fmspcs or ()), *self.denied_fmspcs):
            require_hex(fmspc, "fmspc", (FMSPC_HEX_CHARS,))
        for owner in self.pool_owners:
            require_hex(owner, "pool_owners", (64,))
        for tenant in self.tenants or ():
            require_text(tenant, "tenants")
        for config_id in self.config_ids or ():
            require_hex(config_id, "config_ids")
        for parts in self.minimum_tcb.values():
            if len(parts) > MAX_TCB_COMPONENTS:
                raise PolicyFormatError(
                    f"minimum_tcb: got {len(parts)} parts, expected at most {MAX_TCB_COMPONENTS}"
                )
            for part, least in parts.items():
                require_word(part, "minimum_tcb")
                require_count(least, f"minimum_tcb {part}")
        for what in ("minimum_config_svn", "minimum_tcb_evaluation", "maximum_age", "collateral_grace"):
            number = getattr(self, what)
            if number is not None:
                require_count(number, what)

    @classmethod
    def development(cls, measurements: Set[str] | None = None) -> "TrustPolicy":
        """Accepts the simulator's roots, and any code where no measurements are given. Protects nothing."""
        return cls(
            name="development (UNSAFE)",
            code=AnyMeasurementUNSAFE() if measurements is None else Measurements(measurements),
            roots=frozenset({VENDORS, SIMULATORS}),
            demand_revocation=False,
        )

    @classmethod
    def production(cls, measurements: Set[str]) -> "TrustPolicy":
        """Accepts the given measurements on platforms that are up to date, under vendors' roots, and no simulator."""
        return cls(code=Measurements(measurements))

    def anchors(self) -> TrustAnchors:
        """Every root that verification may end in under this policy's eyes: the known ones, and its own.

        Known roots that the policy does not accept are there too, a simulator's among them, so that a report can name
        them. A known root stays what it is, even where the policy lists the same certificate as its own.
        """
        known = VENDOR_ROOTS.with_more(SIMULATOR_ROOTS)
        own = (root for root in self.own_roots if known.find(root.sha256) is None)
        return known.with_more(own)

    def accepts_root(self, anchor: TrustAnchor) -> bool:
        """Whether evidence may end in this root."""
        if any(root.sha256 == anchor.sha256 for root in self.own_roots):
            return True
        if anchor.name in self.roots:
            return True
        if VENDORS in self.roots and _is_in(anchor, VENDOR_ROOTS):
            return anchor.name not in ENDED_ROOTS
        return SIMULATORS in self.roots and anchor.simulated and _is_in(anchor, SIMULATOR_ROOTS)

    def __repr__(self) -> str:
        return f"TrustPolicy(name={self.name!r}, code={str(self.code)[:200]!r})"


def _is_in(anchor: TrustAnchor, anchors: TrustAnchors) -> bool:
    return anchors.find(anchor.sha256) is not None


def _require_own_roots(roots: Sequence[TrustAnchor]) -> None:
    names: set[str] = {VENDORS, SIMULATORS}
    for root in roots:
        if not _ROOT.match(root.name):
            raise PolicyFormatError(
                f"own_roots: got the name {root.name[:40]!r}, expected one such as my-lab"
            )
        known = VENDOR_ROOTS.named(root.name)
        if root.name in names or (known is not None and known.sha256 != root.sha256):
            raise PolicyFormatError(f"own_roots: the name {root.name!r} is taken, expected another")
        require_text(root.description, "own_roots: description")
        names.add(root.name)


def unknown_roots(policy: TrustPolicy) -> Sequence[str]:
    """Names in ``roots`` that nobody here knows: they accept nothing, and are a slip of the pen."""
    known = {root.name for root in policy.anchors()} | {VENDORS, SIMULATORS}
    return tuple(sorted(policy.roots - known))


def production_problems(policy: TrustPolicy) -> Sequence[str]:
    """What forbids the policy in production, one sentence each; nothing where it may be used."""
    return tuple(_production_problems(policy))


def _production_problems(policy: TrustPolicy) -> Iterator[str]:
    simulated = sorted(root.name for root in policy.anchors() if root.simulated and policy.accepts_root(root))
    if SIMULATORS in policy.roots or simulated:
        yield (
            f"it accepts a simulator ({', '.join(simulated) or SIMULATORS}), which anybody can forge: take it out of "
            "roots and own_roots"
        )
    if policy.allow_debug_UNSAFE:
        yield "it accepts TEEs in debug mode, which their operators can look into: remove allow_debug_UNSAFE"
    if any(isinstance(rule, AnyMeasurementUNSAFE) for rule in walk(policy.code)):
        yield f"it accepts any code at all: {_EMPTY_REMEDY} instead of any_measurement_UNSAFE"
    yield from (f"{problem}, so that it admits nobody" for problem in empty_parts(policy))


def empty_parts(policy: TrustPolicy) -> Iterator[str]:
    """The parts by which a policy admits nobody, whatever the evidence says."""
    if policy.code.is_empty:
        yield f"it names no code ({_EMPTY_REMEDY})"
    if not policy.roots and not policy.own_roots:
        yield "it accepts no root"
    for name in ("tees", "tcb_statuses", "fmspcs", "config_ids", "tenants"):
        values = getattr(policy, name)
        if values is not None and not values:
            yield f"{name} is empty"


def require_production(policy: TrustPolicy) -> None:
    """Return only where the policy may be used in production.

    Raises:
        PolicyViolation: it accepts a simulator, debug mode or any code, or admits nobody; the message lists all of it.
    """
    problems = production_problems(policy)
    if problems:
        raise PolicyViolation("the trust policy is not fit for production: " + "; ".join(problems))
