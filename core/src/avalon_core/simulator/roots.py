"""The roots of the simulators, under the published seed. SIMULATED: no hardware stands behind any of them.

They are in no trust store of vendors: a policy has to accept a simulator by name, and production accepts none.
The digests are constants, so that verifying evidence builds no simulator; a test rebuilds them from the seed.
"""

from avalon_core.attestation.roots import TrustAnchor, TrustAnchors

_WARNING = "the seed is published, and anybody can forge what ends here."

SIMULATOR = TrustAnchor(
    name="simulator",
    sha256="d703b15f6e22fe9e74e43b3270b2ce37e038a9f8217b39caa0eea4be16b9571f",
    simulated=True,
    description=f"SIMULATED Intel SGX and TDX: {_WARNING}",
)

SIMULATOR_AMD_MILAN = TrustAnchor(
    name="simulator-amd-milan",
    sha256="9641a721317c3f0c09693d2fbd63f7e082626dd4288bcaf35cc49ae34a90c422",
    simulated=True,
    description=f"SIMULATED ARK-Milan: {_WARNING}",
)

SIMULATOR_AMD_GENOA = TrustAnchor(
    name="simulator-amd-genoa",
    sha256="7ad28b4de875d2c5243058c504584b64a8837416df7ed3ff8730d9980610a9b3",
    simulated=True,
    description=f"SIMULATED ARK-Genoa: {_WARNING}",
)

SIMULATOR_AMD_TURIN = TrustAnchor(
    name="simulator-amd-turin",
    sha256="3228b1d4894255deca0873350a206166ff53d1cd57167ce20ead604fba9c7b7f",
    simulated=True,
    description=f"SIMULATED ARK-Turin: {_WARNING}",
)

SIMULATOR_AWS_NITRO = TrustAnchor(
    name="simulator-aws-nitro",
    sha256="f8ad4f20eb28c9e4216a52db4fce8a858a0b236b225622d74389b903bc838d20",
    simulated=True,
    description=f"SIMULATED AWS Nitro Enclaves: {_WARNING}",
)

SIMULATOR_ROOTS = TrustAnchors(
    (SIMULATOR, SIMULATOR_AMD_MILAN, SIMULATOR_AMD_GENOA, SIMULATOR_AMD_TURIN, SIMULATOR_AWS_NITRO)
)
"""All of them."""
