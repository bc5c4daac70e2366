"""The life of an enclave, whatever its role: configured, started, serving, ended.

A role gives the parts (what to offer, what to do with a message); this is the order in which they happen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, assert_never

import msgspec

from avalon_core.attestation.binding import report_data
from avalon_core.channel.messages import (
    Cancel,
    Configure,
    EvidenceRefreshed,
    KeySigned,
    Ping,
    Pong,
    Process,
    RefreshEvidence,
    Shutdown,
    SignKey,
    SignReceipt,
    Started,
    ToEnclave,
)
from avalon_core.channel.pool_messages import LinkClosed, LinkFrame, LinkOpened, PoolCommand
from avalon_core.crypto.registry import key_nonce
from avalon_core.crypto.signing import digest_of_text
from avalon_core.errors import ChannelError
from avalon_core.protocol.encodings import encode_base64
from avalon_core.protocol.ids import HexStr, worker_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, FORMAT_JSON_RPC
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerTypeData, WorkloadInfo
from avalon_enclave.errors import EXIT_CHANNEL_BROKEN, EXIT_ENDED, KeysRefused, StartRefused
from avalon_enclave.events import Event, Journal
from avalon_enclave.executor import Executor
from avalon_enclave.host_channel import HostChannel
from avalon_enclave.keystore import KeyStore, Owner, make_keys, restore_keys, seal_keys
from avalon_enclave.launch import check_launch
from avalon_enclave.platforms import Platform

if TYPE_CHECKING:
    from avalon_enclave.pool.state import Pool

MAX_THREADS = 64
MAX_CHILDREN = 64
MAX_NAME_CHARS = 256
SHUTDOWN_SECONDS = 10.0
"""For orders in flight, once the host says Shutdown."""

_NONCE_BYTES = 32


def await_configure(messages: Iterator[ToEnclave], measured: Mapping[str, str]) -> Configure | None:
    """The configuration, which the host sends first. None: the host is gone.

    ``measured``: what the host said at launch (:attr:`HostChannel.measured`).

    Raises:
        StartRefused: the host sent something else, a value that cannot be, or otherwise than it said at launch.
    """
    message = next(messages, None)
    if message is None:
        return None
    if not isinstance(message, Configure):
        raise StartRefused(f"the host sent {type(message).__name__} first, expected Configure")
    fault = _fault(message)
    if fault is not None:
        raise StartRefused(f"the host's configuration cannot be: {fault}")
    check_launch(measured, message)
    return message


def _fault(configure: Configure) -> str | None:
    if not 1 <= len(configure.worker_name) <= MAX_NAME_CHARS or not configure.worker_name.isprintable():
        return f"worker_name: expected 1 to {MAX_NAME_CHARS} printable characters"
    if configure.keys not in ("fresh", "sealed"):
        return f"keys: got {configure.keys[:32]!r}, expected 'fresh' or 'sealed'"
    if configure.tenant is not None and not 1 <= len(configure.tenant) <= MAX_NAME_CHARS:
        return f"tenant: expected 1 to {MAX_NAME_CHARS} characters, or none"
    if not 1 <= configure.threads <= MAX_THREADS:
        return f"threads: got {configure.threads}, expected 1 to {MAX_THREADS}"
    if not 1 <= configure.children <= MAX_CHILDREN:
        return f"children: got {configure.children}, expected 1 to {MAX_CHILDREN}"
    return None


def obtain_keys(configure: Configure, role: str, platform: Platform, journal: Journal) -> KeyStore:
    """New keys or those that were sealed, as the configuration says.

    Raises:
        KeysRefused: they do not open. It is reported to the host too.
    """
    owner = Owner(role=role, worker_name=configure.worker_name, tenant=configure.tenant)
    if configure.keys == "fresh" or configure.sealed_keys is None:
        return make_keys(owner)
    try:
        return restore_keys(configure.sealed_keys, owner, platform)
    except KeysRefused:
        journal.record(Event.KEYS_NOT_RESTORED)
        raise


def announce(
    configure: Configure,
    keys: KeyStore,
    platform: Platform,
    workloads: tuple[WorkloadInfo, ...],
    *,
    pool: Pool | None = None,
) -> Started:
    """Have the platform vouch for the keys, and describe the worker. ``pool``: the pool whose keys they are.

    Raises:
        StartRefused: the platform cannot vouch, or cannot seal, as it is set up.
    """
    return Started(
        details=describe(keys, platform, workloads, pool=pool),
        measurement=platform.measurement(),
        platform=platform.name,
        simulated=platform.simulated,
        sealed_keys=seal_keys(keys, platform) if configure.keys == "sealed" else None,
        keys_restored=keys.restored,
    )


def describe(
    keys: KeyStore, platform: Platform, workloads: tuple[WorkloadInfo, ...], *, pool: Pool | None = None
) -> bytes:
    """The details of the worker's record, in JSON, with evidence of this moment.

    Raises:
        StartRefused: the platform cannot vouch as it is set up, or not now.
    """
    verification_key = keys.signing.verification_key.pem
    rsa_key = keys.encryption.rsa.public_key.pem
    hpke_key = keys.encryption.hpke.public_key.hex
    binding = KeyBinding(
        worker_id=worker_id_of(keys.owner.worker_name),
        role=keys.owner.role,
        tenant=keys.owner.tenant,
        nonce=HexStr(os.urandom(_NONCE_BYTES).hex()),
        issued_at=int(time.time()),
        pool=pool.pool_id if pool is not None else None,
        manifest=pool.manifest_digest if pool is not None else None,
    )
    proof_data_type, proof_data = platform.issue_evidence(
        report_data(
            binding,
            verification_key=verification_key,
            encryption_key=rsa_key,
            hpke_encryption_key=hpke_key,
        )
    )
    type_data = WorkerTypeData(
        verification_key=verification_key,
        encryption_key=rsa_key,
        encryption_key_signature=HexStr(keys.signing.sign(digest_of_text(rsa_key)).hex()),
        encryption_key_nonce=key_nonce(rsa_key),
        hpke_encryption_key=HexStr(hpke_key),
        hpke_encryption_key_signature=HexStr(keys.signing.sign(digest_of_text(hpke_key)).hex()),
        proof_data_type=proof_data_type,
        proof_data=proof_data,
        key_binding=binding,
        extended_measurements=_measurements_of(pool) if pool is not None else None,
        simulated=platform.simulated,
    )
    details = WorkerDetails(
        worker_type_data=type_data,
        work_order_payload_formats=f"{FORMAT_JSON_RPC},{FORMAT_HPKE}",
        workloads=workloads,
    )
    return msgspec.json.encode(details)


def _measurements_of(pool: Pool) -> dict[str, Any]:
    """What a requester may want to know of a pool beyond the KME's own measurement: the manifests, whose digests the
    evidence binds.
    """
    return {
        "poolManifest": encode_base64(pool.state.first_manifest),
        "poolManifestChanges": [msgspec.to_builtins(change) for change in pool.state.changes],
    }


def serve(
    channel: HostChannel,
    messages: Iterator[ToEnclave],
    executor: Executor,
    journal: Journal,
    sign_key: Callable[[SignKey], KeySigned],
    describe_again: Callable[[], bytes],
) -> int:
    """Process orders until the host says Shutdown or closes the channel; returns the exit code.

    ``describe_again``: :func:`describe` with what this enclave has.
    """
    try:
        for message in messages:
            match message:
                case Process() | SignReceipt():
                    executor.submit(message)
                case Cancel():
                    executor.cancel(message.handle)
                case SignKey():
                    channel.send(sign_key(message))
                case RefreshEvidence(handle=handle):
                    # In a thread: the platform may take seconds, and pings and orders must not wait for it.
                    threading.Thread(
                        target=_refresh, args=(channel, handle, describe_again), daemon=True
                    ).start()
                case Ping():
                    channel.send(Pong(message.sequence))
                case Shutdown():
                    # In a thread, so that this one still notices when the host dies meanwhile.
                    threading.Thread(target=_drain, args=(channel, executor), daemon=True).start()
                case Configure():
                    raise ChannelError("the host sent Configure twice")
                case LinkOpened() | LinkFrame() | LinkClosed() | PoolCommand():
                    raise ChannelError("the host sent a pool's message to an enclave that is in none")
                case _:
                    assert_never(message)
    except ChannelError:
        journal.record(Event.CHANNEL_BROKEN)
        return EXIT_CHANNEL_BROKEN
    return EXIT_ENDED


def _refresh(channel: HostChannel, handle: int, describe_again: Callable[[], bytes]) -> None:
    try:
        channel.send(EvidenceRefreshed(handle, describe_again()))
    except StartRefused as exc:
        # What was a reason not to start is none to end: the evidence that is out there is still good.
        channel.send(EvidenceRefreshed(handle, None, exc.message))


def _drain(channel: HostChannel, executor: Executor) -> None:
    executor.drain(SHUTDOWN_SECONDS)
    channel.stop_receiving()
