"""The vendors' roots that are known here. Known is not accepted: that is the policy's word.

One entry a root, by the SHA-256 over the certificate's DER. Digests were computed from certificates of real evidence
and compared with what the vendor publishes, where it publishes one.
"""

from avalon_core.attestation.roots import TrustAnchor, TrustAnchors

AMD_MILAN = TrustAnchor(
    name="amd-milan",
    sha256="69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    description="ARK-Milan: SEV-SNP of EPYC 7003, valid 2020-10-22 to 2045-10-22.",
)

AMD_GENOA = TrustAnchor(
    name="amd-genoa",
    sha256="4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    description="ARK-Genoa: SEV-SNP of EPYC 9004 and 8004, valid 2022-01-26 to 2047-01-26.",
)

AMD_TURIN = TrustAnchor(
    name="amd-turin",
    sha256="1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    description="ARK-Turin: SEV-SNP of EPYC 9005, valid 2023-05-15 to 2048-05-15.",
)

AWS_NITRO = TrustAnchor(
    name="aws-nitro",
    sha256="641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
    description="AWS Nitro Enclaves root G1 (CN=aws.nitro-enclaves), valid 2019-10-28 to 2049-10-28. "
    "AWS publishes this fingerprint in its guide, Verifying the root of trust.",
)

INTEL_IAS = TrustAnchor(
    name="intel-ias",
    sha256="7b42e41ec43b91db834a065de4f98a13c44d695570e839cfa8921e584e40735d",
    description="Intel SGX Attestation Report Signing CA: reports of IAS (EPID), valid 2016-11-14 to 2049-12-31. "
    "The service ended in April 2025; its reports stay verifiable as of their own day.",
)

INTEL_SGX = TrustAnchor(
    name="intel-sgx",
    sha256="44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
    description="Intel SGX Root CA: SGX and TDX quotes of DCAP, valid 2018-05-21 to 2049-12-31.",
)

GOOGLE_EK_AK = TrustAnchor(
    name="google-ek-ak",
    sha256="594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
    description="Google Cloud EK/AK CA Root: attestation keys of the virtual TPMs of Compute Engine, "
    "valid 2022-07-08 to 2122-07-08.",
)

VENDOR_ROOTS = TrustAnchors((AMD_MILAN, AMD_GENOA, AMD_TURIN, AWS_NITRO, INTEL_IAS, GOOGLE_EK_AK, INTEL_SGX))
"""All of them."""
