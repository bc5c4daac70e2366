"""The life of an enclave, whatever its role: configured, started, serving, ended.

A role gives the parts (what to offer, what to do with a message); this is the order in which they happen.
"""

import os
import threading
from collections.abc import Callable, Iterator
from typing import assert_never

import msgspec

from avalon_core.attestation import report_data
from avalon_core.channel.messages import (
    Cancel,
    Configure,
    KeySigned,
    Ping,
    Pong,
    Process,
    Shutdown,
    SignKey,
    SignReceipt,
    Started,
    ToEnclave,
)
from avalon_core.crypto.registry import key_nonce
from avalon_core.crypto.signing import digest_of_text
from avalon_core.errors import ChannelError
from avalon_core.protocol.ids import HexStr, worker_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, FORMAT_JSON_RPC
from avalon_core.protocol.workers import KeyBinding, WorkerDetails, WorkerTypeData, WorkloadInfo
from avalon_enclave.errors import EXIT_CHANNEL_BROKEN, EXIT_ENDED, KeysRefused, StartRefused
from avalon_enclave.events import Event, Journal
from avalon_enclave.executor import Executor
from avalon_enclave.host_channel import HostChannel
from avalon_enclave.keystore import KeyStore, Owner, make_keys, restore_keys, seal_keys
from avalon_enclave.platforms import Platform

MAX_THREADS = 64
MAX_NAME_CHARS = 256
SHUTDOWN_SECONDS = 10.0
"""For orders in flight, once the host says Shutdown."""

_NONCE_BYTES = 32


def await_configure(messages: Iterator[ToEnclave]) -> Configure | None:
    """The configuration, which the host sends first. None: the host is gone.

    Raises:
        StartRefused: the host sent something else, or a value that cannot be.
    """
    message = next(messages, None)
    if message is None:
        return None
    if not isinstance(message, Configure):
        raise StartRefused(f"the host sent {type(message).__name__} first, expected Configure")
    fault = _fault(message)
    if fault is not None:
        raise StartRefused(f"the host's configuration cannot be: {fault}")
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
    configure: Configure, keys: KeyStore, platform: Platform, workloads: tuple[WorkloadInfo, ...]
) -> Started:
    """Have the platform vouch for the keys, and describe the worker."""
    verification_key = keys.signing.verification_key.pem
    rsa_key = keys.encryption.rsa.public_key.pem
    hpke_key = keys.encryption.hpke.public_key.hex
    binding = KeyBinding(
        worker_id=worker_id_of(keys.owner.worker_name),
        role=keys.owner.role,
        tenant=keys.owner.tenant,
        nonce=HexStr(os.urandom(_NONCE_BYTES).hex()),
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
        simulated=platform.simulated,
    )
    details = WorkerDetails(
        worker_type_data=type_data,
        work_order_payload_formats=f"{FORMAT_JSON_RPC},{FORMAT_HPKE}",
        workloads=workloads,
    )
    return Started(
        details=msgspec.json.encode(details),
        measurement=platform.measurement(),
        platform=platform.name,
        simulated=platform.simulated,
        sealed_keys=seal_keys(keys, platform) if configure.keys == "sealed" else None,
        keys_restored=keys.restored,
    )


def serve(
    channel: HostChannel,
    messages: Iterator[ToEnclave],
    executor: Executor,
    journal: Journal,
    sign_key: Callable[[SignKey], KeySigned],
) -> int:
    """Process orders until the host says Shutdown or closes the channel; returns the exit code."""
    try:
        for message in messages:
            match message:
                case Process() | SignReceipt():
                    executor.submit(message)
                case Cancel():
                    executor.cancel(message.handle)
                case SignKey():
                    channel.send(sign_key(message))
                case Ping():
                    channel.send(Pong(message.sequence))
                case Shutdown():
                    # In a thread, so that this one still notices when the host dies meanwhile.
                    threading.Thread(target=_drain, args=(channel, executor), daemon=True).start()
                case Configure():
                    raise ChannelError("the host sent Configure twice")
                case _:
                    assert_never(message)
    except ChannelError:
        journal.record(Event.CHANNEL_BROKEN)
        return EXIT_CHANNEL_BROKEN
    return EXIT_ENDED


def _drain(channel: HostChannel, executor: Executor) -> None:
    executor.drain(SHUTDOWN_SECONDS)
    channel.stop_receiving()
