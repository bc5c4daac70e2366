"""A trust policy for whoever tries this service out: it admits the code that runs here, on the simulator of this machine.

It is the development policy made narrow. SIMULATED: the simulator's seed is published, so it protects nothing; but what
it refuses, other code and another simulator, a policy for hardware refuses in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from avalon_core.channel.quoting import Vendor

FILE_NAME = "policy.toml"

_HEAD = """\
# Written by `avalon up` at each start, in the development profile only. SIMULATED: it protects nothing.
# It admits the code that runs in this service, vouched for by this machine's simulator, and no other:
#     avalon submit echo-result hello --policy {path}
# What may stand in it: docs/attestation/policies.md. For a policy that protects, see 'avalon policy'.
"""


def write_policy(path: Path, vendor: Vendor, kind: str, measurements: Iterable[str]) -> None:
    """Write the policy, whole or not at all.

    Args:
        path: of the file; what is there is replaced.
        vendor: the simulated machine's.
        kind: of the TEE that it imitates.
        measurements: of the enclaves whose evidence requesters see.

    Raises:
        OSError: it cannot be written.
    """
    # Imported here: a service on hardware has no use for policies.
    from avalon_core.attestation.claims import Tee
    from avalon_core.attestation.policy import TrustPolicy
    from avalon_core.attestation.policy_writing import dump_policy_toml
    from avalon_core.attestation.roots import TrustAnchor
    from avalon_core.attestation.rules import Measurements
    from avalon_core.simulator.roots import SIMULATOR

    own = TrustAnchor(name="my-simulator", sha256=vendor.root_sha256, simulated=True)
    policy = TrustPolicy(
        name="this service, in development (UNSAFE)",
        code=Measurements(frozenset(measurements)),
        roots=frozenset({SIMULATOR.name} if vendor.published_seed else ()),
        own_roots=() if vendor.published_seed else (own,),
        tees=frozenset({Tee(kind)}),
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(_HEAD.format(path=path) + dump_policy_toml(policy))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
