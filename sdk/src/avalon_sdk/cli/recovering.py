"""``avalon pool recovery-key``, ``shares``, ``recover``, ``hand-back`` and ``return``: a pool comes back from its owners.

The operator fetches the recovery file while the pool lives, begins the recovery when all KMEs are gone, and carries files. Each
owner opens a share on a machine of its own, after having judged to whom it is going to be sealed. No private key, no share in
the clear is ever printed, written or sent.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from avalon_core.attestation.checks import AppraisalReport, Verdict
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.pools import policy_of
from avalon_core.attestation.recovery_offers import MAX_OFFER_BYTES, appraise_offer, read_offer
from avalon_core.attestation.reports import report_to_object
from avalon_core.crypto.recovery import (
    Recovery,
    Share,
    hand_back,
    owner_key_from_hex,
    read_recovery,
    read_share,
)
from avalon_core.crypto.sealing import HpkePrivateKey
from avalon_core.errors import DecryptionFailed, KeyFormatError
from avalon_core.protocol.pools import MAX_SHARE_CHARS, PoolRecoverResult
from avalon_sdk.cli.attest_output import show_report
from avalon_sdk.cli.attesting import code_of, read_policy
from avalon_sdk.cli.directory import worker_id
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.manifest_files import (
    MAX_RECOVERY_BYTES,
    read_as,
    read_chain,
    read_secret,
    write_new,
    write_over,
)
from avalon_sdk.cli.output import remark, show, show_json
from avalon_sdk.cli.trusting import open_client
from avalon_sdk.errors import BadRequest

_MAX_KEY_BYTES = 1024
_SHOWN_CHARS = 16
"""Of an id: enough for people to tell keys from each other."""


async def make_recovery_key(out: Path, *, as_json: bool) -> ExitCode:
    """Make an owner's key; print its public part."""
    key = HpkePrivateKey.generate()
    write_new(out, key.to_bytes().hex().encode() + b"\n", "FILE", mode=0o600)
    if as_json:
        show_json({"public_key": key.public_key.hex, "key_id": key.public_key.key_id})
    else:
        show(key.public_key.hex)
        remark(
            f"{out} is the only copy of the private key {key.public_key.key_id[:_SHOWN_CHARS]}: keep it off this "
            "service's machines. What is printed goes to whoever writes the manifest."
        )
    return ExitCode.OK


async def fetch_shares(
    url: str, *, out: Path, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Write a recovery file of the pool's present state."""
    async with open_client(url, None, (), operator_token=token_file) as client:
        recovery = await client.pool_shares(
            worker_id=worker_id(worker) if worker is not None else None, timeout=timeout
        )
    write_over(out, recovery, "--out")
    if as_json:
        show_json(_recovery_as_json(recovery))
    else:
        show(f"{out}: recovery file of the pool {recovery.pool}", "bold")
        threshold = recovery.shares[0].threshold
        show(f"  {threshold} of {len(recovery.shares)} shares restore what the pool holds now; their keys:")
        for share in recovery.shares:
            show(f"  recovery key {share.key[:_SHOWN_CHARS]}")
        show("  Make a new one after every rotation and every change of the manifest.")
    return ExitCode.OK


async def begin_recovery(
    url: str, path: Path, *, out: Path, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Begin a recovery; write the KME's key and evidence, for the owners."""
    recovery = read_as(path, "RECOVERY", MAX_RECOVERY_BYTES, read_recovery)
    async with open_client(url, None, (), operator_token=token_file) as client:
        offer = await client.recover_pool(
            recovery, worker_id=worker_id(worker) if worker is not None else None, timeout=timeout
        )
    write_over(out, offer, "--out")
    if as_json:
        show_json(
            {"pool": offer.pool, "key": offer.key, "proof_data_type": offer.proof_data_type, "out": str(out)}
        )
    else:
        show(f"{out}: a KME's key for the shares, and its evidence", "bold")
        show(f"  pool {offer.pool}")
        show("  Nothing of it was judged here. Give it to the owners, with the recovery file:")
        show(f"  avalon pool hand-back {path} --kme {out} --key FILE --manifest FILE --out FILE")
    return ExitCode.OK


async def hand_share_back(
    path: Path,
    *,
    key: Path,
    kme: Path,
    policy: str | None,
    first_manifest: Path | None,
    changes: Sequence[Path],
    out: Path,
    as_json: bool,
) -> ExitCode:
    """Seal an owner's share to a KME, in these steps:

    1. The recovery file and the KME are of one pool; where its manifest is given, of that one.
    2. The KME's evidence is about this very key and pool, and passes the policy. If not, the owner's key is not even read.
    3. The owner's key opens its share; the share is sealed to the KME's key and to nobody else.
    """
    recovery = read_as(path, "RECOVERY", MAX_RECOVERY_BYTES, read_recovery)
    offer = read_as(kme, "--kme", MAX_OFFER_BYTES, read_offer)
    trust = _policy(recovery, policy, first_manifest, changes)
    if offer.pool != recovery.pool:
        raise BadRequest(
            f"--kme: {kme} is of the pool {offer.pool[:_SHOWN_CHARS]}, the recovery file of {recovery.pool[:_SHOWN_CHARS]}"
        )
    report = appraise_offer(offer, trust, as_of=datetime.now(UTC))
    if report.verdict is not Verdict.PASSED:
        return _refuse(report, as_json=as_json)
    returned = _seal(recovery, offer, _read_key(key), key)
    write_over(out, returned, "--out")
    simulated = report.claims is not None and report.claims.simulated
    if as_json:
        show_json(
            {
                "pool": recovery.pool,
                "threshold": returned.threshold,
                "simulated": simulated,
                "report": report_to_object(report),
                "out": str(out),
            }
        )
        return ExitCode.OK
    if simulated:
        remark("SIMULATED: no hardware protects this KME; whoever runs it can read your share")
    show(f"the KME's evidence passed {len(report.checks)} checks of {trust.name or 'the policy'}", "green")
    show(f"{out}: your share, sealed to that KME alone. The operator hands it in: avalon pool return {out}")
    return ExitCode.OK


async def return_share(
    url: str, path: Path, *, token_file: Path, worker: str | None, timeout: float, as_json: bool
) -> ExitCode:
    """Hand in a share that its owner has sealed to the KME."""
    share = read_as(path, "SHARE", MAX_SHARE_CHARS, read_share)
    async with open_client(url, None, (), operator_token=token_file) as client:
        progress = await client.return_share(
            share, worker_id=worker_id(worker) if worker is not None else None, timeout=timeout
        )
    if as_json:
        show_json({"shares": progress.shares, "needed": progress.needed, "recovered": progress.recovered})
    elif progress.recovered:
        show("the KME has the pool's keys again; the others get them from it", "bold green")
    else:
        show(f"{progress.shares} of {progress.needed} shares are there")
    return ExitCode.OK


def _policy(
    recovery: Recovery, policy: str | None, first_manifest: Path | None, changes: Sequence[Path]
) -> TrustPolicy:
    if first_manifest is None:
        if policy is None:
            raise BadRequest(
                "expected --manifest (the pool's first manifest; a KME that it admits gets your share) or --policy: "
                "without either nobody is trusted"
            )
        if changes:
            raise BadRequest("--change goes with --manifest")
        return read_policy(policy)
    if policy is not None:
        raise BadRequest("--policy and --manifest: expected one of them")
    pool, manifest = read_chain(first_manifest, changes)
    if pool != recovery.pool:
        raise BadRequest(
            f"--manifest: {first_manifest} is of the pool {pool[:_SHOWN_CHARS]}, the recovery file of "
            f"{recovery.pool[:_SHOWN_CHARS]}: it is not your pool that is being recovered"
        )
    return policy_of(manifest, "kme")


def _refuse(report: AppraisalReport, *, as_json: bool) -> ExitCode:
    if as_json:
        show_json({"error": {"kind": "UntrustedKme", "report": report_to_object(report)}})
    else:
        show_report(report)
        remark("The KME is NOT trusted: your share was not opened. Tell the operator, and the other owners.")
    return code_of(report)


def _read_key(path: Path) -> HpkePrivateKey:
    text = read_secret(path, "--key", _MAX_KEY_BYTES)
    try:
        return owner_key_from_hex(text.decode("ascii"))
    except (KeyFormatError, UnicodeDecodeError):
        # Nothing of the file's content goes into the message.
        raise BadRequest(
            f"--key: {path} is not an owner's recovery key, as 'avalon pool recovery-key' makes it"
        ) from None


def _seal(recovery: Recovery, offer: PoolRecoverResult, key: HpkePrivateKey, path: Path) -> Share:
    own = key.public_key.key_id
    for share in recovery.shares:
        if share.key == own:
            break
    else:
        raise BadRequest(
            f"--key: none of the {len(recovery.shares)} shares is for {path} (recovery key {own[:_SHOWN_CHARS]}): it is "
            "another owner's, or was named in the manifest after the recovery file was made"
        )
    try:
        return hand_back(share, key, offer.key)
    except (DecryptionFailed, KeyFormatError) as exc:
        raise BadRequest(
            f"your share cannot be handed back, the recovery file was changed: {exc.message}"
        ) from exc


def _recovery_as_json(recovery: Recovery) -> dict[str, object]:
    return {
        "pool": recovery.pool,
        "threshold": recovery.shares[0].threshold,
        "recovery_keys": [share.key for share in recovery.shares],
    }
