"""Commands to a TPM 2.0, through tpm2-pytss: the one place that knows that library, which is an optional extra.

A connection is opened for each piece of work and closed after it: a process that this one starts finds no open TPM,
and the simple device (``/dev/tpm0``) stays free for others. Everything that was loaded is flushed.

Secrets cross the bus to the TPM encrypted, in sessions salted with its storage key. That keeps out who listens, not who
answers in the TPM's place: the storage key is not certified.
"""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from avalon_core.attestation.tpm import BankSelection, encode_selection
from avalon_enclave.errors import EnclaveError, StartRefused

_PT_FIXED = 0x100
_PT_COUNT = 64
PT_MANUFACTURER = 0x105
PT_FIRMWARE_VERSION = 0x10B
PT_MAX_DIGEST = 0x120
PT_NV_BUFFER_MAX = 0x12C
"""TPM_PT, TPM Library, Part 2, clause 6.13."""

MAX_NV_BYTES = 8192
"""Of a certificate or template; the largest NV indexes have 2 to 4 KiB."""

_RESTRICTED_SIGNER = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
_TEMPLATES = {"ecc": "ecc_nist_p256:ecdsa-sha256:null", "rsa": "rsa2048:rsassa-sha256:null"}
_STORAGE = "ecc_nist_p256:aes128cfb"
_STORAGE_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
_SEALED_ATTRIBUTES = "fixedtpm|fixedparent|noda"


class TpmFailed(EnclaveError):
    """The TPM, or the way to it, refused."""


def load_library() -> Any:
    """tpm2-pytss.

    Raises:
        StartRefused: it is not installed, or the libraries beneath it are not.
    """
    try:
        return importlib.import_module("tpm2_pytss")
    except (ImportError, RuntimeError, NotImplementedError) as exc:
        raise StartRefused(
            f"the platform tpm needs tpm2-pytss, which cannot be loaded ({exc}): install avalon-enclave[tpm]; it is "
            "built from source and needs the libraries and headers of tpm2-tss (on Debian: libtss2-dev)"
        ) from exc


@contextlib.contextmanager
def open_tpm(tcti: str) -> Iterator["Tpm"]:
    """Connect to a TPM for a while.

    Raises:
        StartRefused: tpm2-pytss is not there.
        TpmFailed: nothing answers at this TCTI.
    """
    tss = load_library()
    with contextlib.ExitStack() as stack, _translated(tss, f"no TPM answers at {tcti!r}"):
        esapi = tss.ESAPI(tcti)
        stack.callback(esapi.close)
        yield Tpm(tss, esapi, stack)


@contextlib.contextmanager
def _translated(tss: Any, what: str) -> Iterator[None]:
    try:
        yield
    except (tss.TSS2_Exception, RuntimeError) as exc:
        raise TpmFailed(f"{what}: {exc}") from exc


class Tpm:
    """An open connection. Made by :func:`open_tpm`; every method raises :class:`TpmFailed`."""

    def __init__(self, tss: Any, esapi: Any, stack: contextlib.ExitStack) -> None:
        self._tss = tss
        self._esapi = esapi
        self._stack = stack

    def properties(self) -> dict[int, int]:
        """The TPM's fixed properties, by TPM_PT."""
        with self._doing("reading the TPM's properties"):
            _, found = self._esapi.get_capability(self._tss.TPM2_CAP.TPM_PROPERTIES, _PT_FIXED, _PT_COUNT)
            return {int(entry.property): int(entry.value) for entry in found.data.tpmProperties}

    def read_pcrs(self, selection: Sequence[BankSelection]) -> dict[str, dict[int, bytes]]:
        """The values of these PCRs. A TPM gives a few at a time, so they are of one time only if nobody extends one."""
        values: dict[str, dict[int, bytes]] = {}
        with self._doing("reading PCRs"):
            for entry in selection:
                values[entry.bank] = {pcr: self._read_pcr(entry.bank, pcr) for pcr in entry.pcrs}
        return values

    def _read_pcr(self, bank: str, pcr: int) -> bytes:
        _, _, digests = self._esapi.pcr_read(f"{bank}:{pcr}")
        if len(digests) != 1:
            raise TpmFailed(f"the TPM has no PCR {pcr} in a bank of {bank}: choose others in pcrs")
        return bytes(digests[0])

    def attestation_key(self, kind: str, endorsement_auth: bytes) -> Any:
        """Make or find the attestation key, as the configuration names it.

        Made ones are primary keys of the endorsement hierarchy: the same template gives the same key every time, so
        nothing is to be stored.

        Returns:
            Its handle, for as long as the connection.
        """
        with self._doing(f"loading the attestation key {kind}"):
            if kind.startswith("handle:"):
                return self._esapi.tr_from_tpmpublic(int(kind.removeprefix("handle:"), 16))
            if kind.startswith("template:"):
                raw = self.read_nv(int(kind.removeprefix("template:"), 16))
                area, _ = self._tss.TPMT_PUBLIC.unmarshal(raw)
                template = self._tss.TPM2B_PUBLIC(publicArea=area)
            else:
                template = self._tss.TPM2B_PUBLIC.parse(
                    alg=_TEMPLATES[kind], objectAttributes=_RESTRICTED_SIGNER
                )
            return self._primary(self._tss.ESYS_TR.ENDORSEMENT, template, endorsement_auth)

    def public_key(self, key: Any) -> tuple[bytes, bytes]:
        """The public key (PEM) and the name (hash algorithm and digest) of a restricted signing key.

        Raises:
            TpmFailed: the key is another: quotes under it would prove nothing, since it would sign forged ones too.
        """
        with self._doing("reading the attestation key"):
            public, name, _ = self._esapi.read_public(key)
            attributes = int(public.publicArea.objectAttributes)
            kinds = self._tss.TPMA_OBJECT
            needed = int(kinds.RESTRICTED) | int(kinds.SIGN_ENCRYPT) | int(kinds.FIXEDTPM)
            if attributes & needed != needed or attributes & int(kinds.DECRYPT):
                raise TpmFailed(
                    "the attestation key is no restricted signing key fixed to this TPM: name another key"
                )
            return bytes(public.to_pem()), bytes(name)

    def quote(self, key: Any, selection: Sequence[BankSelection], qualifying: bytes) -> tuple[bytes, bytes]:
        """TPM2_Quote: the TPMS_ATTEST and its TPMT_SIGNATURE."""
        with self._doing("quoting"):
            attest, signature = self._esapi.quote(key, self._selection(selection), qualifying)
            return bytes(attest), bytes(signature.marshal())

    def seal(self, secret: bytes, policy: bytes, owner_auth: bytes) -> tuple[bytes, bytes]:
        """Seal at most 128 bytes under a policy digest (SHA-256); returns TPM2B_PUBLIC and TPM2B_PRIVATE."""
        tss = self._tss
        with self._doing("sealing"):
            parent = self._storage_key(owner_auth)
            template = tss.TPM2B_PUBLIC.parse(
                alg="keyedhash", objectAttributes=_SEALED_ATTRIBUTES, authPolicy=policy
            )
            sensitive = tss.TPM2B_SENSITIVE_CREATE(tss.TPMS_SENSITIVE_CREATE(data=secret))
            session = self._session(tss.TPM2_SE.HMAC, parent, tss.TPMA_SESSION.DECRYPT)
            private, public, *_ = self._esapi.create(parent, sensitive, template, session2=session)
            return bytes(public.marshal()), bytes(private.marshal())

    def unseal(
        self, public: bytes, private: bytes, selection: Sequence[BankSelection], owner_auth: bytes
    ) -> bytes:
        """Undo :meth:`seal`, if the PCRs have the values that the policy digest names."""
        tss = self._tss
        with self._doing("unsealing"):
            parent = self._storage_key(owner_auth)
            loaded = self._esapi.load(
                parent, tss.TPM2B_PRIVATE.unmarshal(private)[0], tss.TPM2B_PUBLIC.unmarshal(public)[0]
            )
            self._flush_later(loaded)
            session = self._session(tss.TPM2_SE.POLICY, parent, tss.TPMA_SESSION.ENCRYPT)
            self._esapi.policy_pcr(session, b"", self._selection(selection))
            return bytes(self._esapi.unseal(loaded, session1=session))

    def read_nv(self, index: int) -> bytes:
        """The whole of an NV index that its owner or anybody may read."""
        with self._doing(f"reading NV index {index:#010x}"):
            handle = self._esapi.tr_from_tpmpublic(index)
            public, _ = self._esapi.nv_read_public(handle)
            area = public.nvPublic
            size = int(area.dataSize)
            if size > MAX_NV_BYTES:
                raise TpmFailed(f"NV index {index:#010x} has {size} bytes, expected at most {MAX_NV_BYTES}")
            anybody = int(area.attributes) & int(self._tss.TPMA_NV.AUTHREAD)
            reader = handle if anybody else self._tss.ESYS_TR.OWNER
            step = self.properties().get(PT_NV_BUFFER_MAX, 512)
            return b"".join(
                bytes(self._esapi.nv_read(handle, min(step, size - start), start, reader))
                for start in range(0, size, step)
            )

    def _storage_key(self, owner_auth: bytes) -> Any:
        template = self._tss.TPM2B_PUBLIC.parse(alg=_STORAGE, objectAttributes=_STORAGE_ATTRIBUTES)
        return self._primary(self._tss.ESYS_TR.OWNER, template, owner_auth)

    def _primary(self, hierarchy: Any, template: Any, auth: bytes) -> Any:
        if auth:
            self._esapi.tr_set_auth(hierarchy, auth)
        handle, *_ = self._esapi.create_primary(None, template, hierarchy)
        self._flush_later(handle)
        return handle

    def _session(self, kind: Any, salted_with: Any, encrypted: Any) -> Any:
        tss = self._tss
        session = self._esapi.start_auth_session(
            salted_with, tss.ESYS_TR.NONE, kind, "aes128cfb", tss.TPM2_ALG.SHA256
        )
        self._flush_later(session)
        self._esapi.trsess_set_attributes(session, tss.TPMA_SESSION.CONTINUESESSION | encrypted)
        return session

    def _flush_later(self, handle: Any) -> None:
        self._stack.callback(self._esapi.flush_context, handle)

    def _selection(self, selection: Sequence[BankSelection]) -> Any:
        return self._tss.TPML_PCR_SELECTION.unmarshal(encode_selection(selection))[0]

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (self._tss.TSS2_Exception, ValueError) as exc:
            raise TpmFailed(f"{what}: {exc}") from exc
