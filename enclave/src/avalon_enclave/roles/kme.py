"""The key management enclave: the threads and the channel around :class:`avalon_enclave.pool.kme.KmeNode`.

One thread reads what the host says; as many threads as there are cores open orders. It runs no workload.
"""

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec

from avalon_core.channel.messages import (
    Configure,
    EvidenceRefreshed,
    Failed,
    KeySigned,
    Ping,
    Pong,
    ReceiptSigned,
    RefreshEvidence,
    Shutdown,
    SignKey,
    SignReceipt,
    Started,
    ToEnclave,
)
from avalon_core.channel.pool_messages import (
    CloseLink,
    LinkClosed,
    LinkFrame,
    LinkOpened,
    PoolAnswered,
    PoolCommand,
    PoolConfigure,
    PoolSealed,
    RecordChanged,
)
from avalon_core.crypto.manifests import Manifest, follow, read_manifest, read_signed_manifest
from avalon_core.errors import AvalonError, ChannelError, EvidenceError, HandshakeRefused, PolicyViolation
from avalon_core.protocol.errors import WorkOrderError
from avalon_core.protocol.ids import worker_id_of
from avalon_enclave.errors import (
    EXIT_CHANNEL_BROKEN,
    EXIT_ENDED,
    PoolStateRefused,
    SealingFailed,
    StartRefused,
)
from avalon_enclave.events import Event, Journal, type_name
from avalon_enclave.hardening import silence
from avalon_enclave.host_channel import HostChannel
from avalon_enclave.key_signing import KeySigner
from avalon_enclave.keystore import KeyStore, Owner
from avalon_enclave.lifecycle import await_configure, describe
from avalon_enclave.platforms import Platform
from avalon_enclave.pool.judging import CODE_REFUSED, Judge, issue, machine_of
from avalon_enclave.pool.kme import ROLE, KmeNode
from avalon_enclave.pool.recovery import Recoverer, make_shares
from avalon_enclave.pool.state import Pool, PoolState, change_manifest, decode_state, encode_state, load
from avalon_enclave.relay import Relay

_TICK_SECONDS = 60.0
_INSTANCE_BYTES = 16
_NONCE_BYTES = 64


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, tag="avalon pool seal 1"):
    instance: str
    revision: int
    state: bytes


_sealed_decoder = msgspec.msgpack.Decoder(_Sealed)


def run_kme(channel: HostChannel, platform: Platform) -> int:
    """Run to the end; returns the exit code.

    Raises:
        StartRefused: before Started was sent.
        ChannelError: the same, where the host's first message is none.
    """
    messages = channel.messages()
    journal = Journal(channel.send)
    configure = await_configure(messages, channel.measured)
    if configure is None:
        return EXIT_ENDED
    kme = KmeProcess(channel, platform, journal, configure)
    kme.require_admitted()
    channel.send(
        Started(
            details=b"",
            measurement=platform.measurement(),
            platform=platform.name,
            simulated=platform.simulated,
        )
    )
    silence(0, 1, 2)
    if platform.simulated:
        journal.record(Event.SIMULATED_PLATFORM, platform=platform.name)
    kme.begin()
    try:
        return kme.serve(messages)
    finally:
        kme.end()


def pool_of(configure: Configure) -> tuple[PoolConfigure, Manifest]:
    """The pool's part of a configuration, and the manifest in force as far as the host knows.

    Raises:
        StartRefused: there is none, or the manifests are not admitted.
    """
    pool = configure.pool
    if pool is None:
        raise StartRefused("this role needs a pool: the host's configuration names none")
    try:
        manifest = follow(pool.first_manifest, [read_signed_manifest(change) for change in pool.changes])
        read = read_manifest(manifest)
    except (EvidenceError, PolicyViolation) as exc:
        raise StartRefused(f"the pool's manifest cannot be: {exc.message}") from None
    if read.worker_name != configure.worker_name:
        raise StartRefused(
            f"the manifest is of the worker {read.worker_name!r}, the configuration of {configure.worker_name!r}"
        )
    return pool, read


class KmeProcess:
    """The world around a node. Satisfies :class:`avalon_enclave.pool.kme.Outside`."""

    def __init__(
        self, channel: HostChannel, platform: Platform, journal: Journal, configure: Configure
    ) -> None:
        self._channel = channel
        self._platform = platform
        self._journal = journal
        self._configure = configure
        self._pool, manifest = pool_of(configure)
        self._manifest = manifest
        if platform.simulated is False and any(root.startswith("simulator") for root in manifest.roots):
            raise StartRefused("the manifest accepts a simulator's root, and this enclave runs on hardware")
        self._judge = Judge(simulated=platform.simulated, own_machine=self._own_machine)
        # One at a time but for RSA: threads that share out microseconds of our suite cost more than they win.
        self._queue: Relay[Callable[[], object]] = Relay()
        self._threads = [
            threading.Thread(target=self._work, name=f"kme-{number}", daemon=True)
            for number in range(max(2, os.cpu_count() or 1))
        ]
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="kme-tick", daemon=True)
        self._signer: KeySigner | None = None
        self._restored: tuple[PoolState, int] | None = None
        instance = os.urandom(_INSTANCE_BYTES).hex()
        if self._pool.start == "restore":
            instance, state, revision = self._unseal()
            self._restored = state, revision
        elif self._pool.start not in ("create", "join", "recover"):
            raise StartRefused(
                f"pool start: got {self._pool.start[:32]!r}, expected create, join, restore or recover"
            )
        self._instance = instance
        self._recovery = (
            Recoverer(self._pool.first_manifest, platform) if self._pool.start == "recover" else None
        )
        self.node = KmeNode(
            self, instance=instance, first_manifest=self._pool.first_manifest, manifest=manifest
        )
        self.node.office.step_aside = self._queue.step_aside

    def require_admitted(self) -> None:
        """Refuse to start where no manifest that is known here admits this very code. One that joins is told by its peer.

        Raises:
            StartRefused
        """
        if self._pool.start == "join":
            return
        manifests = [self._manifest]
        if self._restored is not None:
            manifests.append(load(self._restored[0]).manifest)
        nonce = os.urandom(_NONCE_BYTES)
        evidence = issue(self._platform, nonce)
        for manifest in manifests:
            try:
                self._judge(evidence, nonce, ROLE, manifest)
            except HandshakeRefused as exc:
                if exc.reason == CODE_REFUSED:
                    continue
            # In doubt it is: peers judge it, too.
            return
        raise StartRefused(
            f"the pool's manifest does not admit the code of this key management enclave ({self._platform.measurement()}): "
            "have its owners sign a change that does while KMEs of the admitted code run, go back to that code, or begin "
            "a new pool in another data directory"
        )

    def begin(self) -> None:
        """Start the threads, and make or restore the pool where that is how this KME begins."""
        for thread in (*self._threads, self._ticker):
            thread.start()
        if self._pool.start == "create":
            self.node.create()
        elif self._restored is not None:
            state, revision = self._restored
            self._restored = None
            self.node.restore(state, revision, alone=self._pool.alone)
            if self._pool.alone:
                self._journal.record(Event.POOL_RESTORED_ALONE, revision=revision)

    def end(self) -> None:
        """End the threads."""
        self._ended.set()
        self._queue.end(len(self._threads))

    def serve(self, messages: Iterator[ToEnclave]) -> int:
        """Do what the host says until it says Shutdown or closes the channel."""
        node = self.node
        try:
            for message in messages:
                match message:
                    case LinkFrame(link=link, frame=frame):
                        node.link_frame(link, frame)
                    case LinkOpened(link=link, initiate=initiate):
                        # Here and not in another thread: the peer's first frame may be the next message.
                        node.link_opened(link, initiate=initiate)
                    case LinkClosed(link=link):
                        node.link_closed(link)
                    case PoolCommand():
                        self._queue.put(partial(self._command, message))
                    case SignKey():
                        self._sign_key(message)
                    case SignReceipt():
                        self._queue.put(partial(self._sign_receipt, message))
                    case RefreshEvidence(handle=handle):
                        self._queue.put(partial(self._refresh_evidence, handle))
                    case Ping(sequence=sequence):
                        self._channel.send(Pong(sequence))
                    case Shutdown():
                        return EXIT_ENDED
                    case _:
                        raise ChannelError(f"the host sent {type(message).__name__} to a KME")
        except ChannelError:
            self._journal.record(Event.CHANNEL_BROKEN)
            return EXIT_CHANNEL_BROKEN
        return EXIT_ENDED

    # -- Outside

    def send(self, link: int, frame: bytes) -> None:
        self._channel.send(LinkFrame(link, frame))

    def close(self, link: int, reason: str) -> None:
        self._channel.send(CloseLink(link, reason))

    def state_changed(self, state: PoolState, instance: str, revision: int) -> None:
        plain = msgspec.msgpack.encode(
            _Sealed(instance=instance, revision=revision, state=encode_state(state))
        )
        self._channel.send(
            PoolSealed(self._platform.seal(plain), revision, rollbacks=self.node.counters.rollbacks)
        )

    def pool_changed(self, pool: Pool) -> None:
        # Evidence over the keys takes a moment; the newest is announced last.
        self._queue.put(lambda: self._announce(pool))

    def event(self, name: str, fields: Mapping[str, str | int]) -> None:
        self._journal.record(_EVENTS[name], **fields)
        if name == "kme_serving":
            self.pool_changed(self.node.office.pool)

    def run(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def issue_evidence(self, report_data: bytes) -> bytes:
        return issue(self._platform, report_data)

    def judge(self, evidence: bytes, report_data: bytes, role: str, manifest: Manifest) -> None:
        self._judge(evidence, report_data, role, manifest)

    def monotonic(self) -> float:
        return time.monotonic()

    def unix_time(self) -> int:
        return int(time.time())

    @functools.cached_property
    def _machine(self) -> str | None:
        return machine_of(issue(self._platform, bytes(64)), as_of=datetime.now(UTC))

    def _own_machine(self) -> str | None:
        return self._machine

    # -- what threads do

    def _work(self) -> None:
        while (work := self._queue.take()) is not None:
            try:
                work()
            except BaseException as exc:  # noqa: BLE001 one piece of work must not end the thread; its text may be secret
                self._journal.record(Event.ORDER_NOT_PROCESSED, error=type_name(exc))
            del work

    def _tick(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self._queue.put(self.node.tick)

    _announce_lock = threading.Lock()

    def _announce(self, pool: Pool) -> bytes | None:
        with self._announce_lock:
            if pool is not self.node.office.pool or not self.node.is_serving:
                return (
                    None  # a newer one waits in the queue, or this one may be old: nothing is published yet
                )
            keys = _keystore(pool, self._configure)
            self._signer = KeySigner(worker_id_of(pool.manifest.worker_name), keys)
            details = describe(keys, self._platform, (), pool=pool)
            self._channel.send(
                RecordChanged(
                    details, epoch=pool.current.epoch.number, manifest_version=pool.manifest.version
                )
            )
            return details

    def _refresh_evidence(self, handle: int) -> None:
        try:
            # Told as a changed record, too: only so does the host know which of two is the newer.
            details = self._announce(self.node.office.pool) if self.node.is_serving else None
        except StartRefused as exc:
            self._channel.send(EvidenceRefreshed(handle, None, exc.message))
            return
        reason = "" if details is not None else "this KME does not serve the pool at the moment"
        self._channel.send(EvidenceRefreshed(handle, details, reason))

    def _sign_key(self, message: SignKey) -> None:
        if self._signer is not None:
            self._channel.send(self._signer(message))
        else:
            self._channel.send(KeySigned(message.handle, "", "", b""))

    def _sign_receipt(self, asked: SignReceipt) -> None:
        try:
            signed = self.node.office.sign_late_receipt(asked.request, asked.result)
        except WorkOrderError as exc:
            self._channel.send(Failed(asked.handle, int(exc.code), exc.message))
            return
        self._channel.send(ReceiptSigned(asked.handle, signed.response_hash, signed.signature))

    def _command(self, command: PoolCommand) -> None:
        try:
            answer, ok = self._do(command), True
        except AvalonError as exc:
            answer, ok = {"error": exc.message}, False
        self._channel.send(PoolAnswered(command.handle, ok, msgspec.json.encode(answer)))

    def _do(self, command: PoolCommand) -> object:
        node = self.node
        match command.verb:
            case "status":
                return self._status()
            case "rotate":
                return {"epoch": node.rotate(_number(command.argument, "expected"))}
            case "change":
                return {"version": node.change_manifest(read_signed_manifest(command.argument)).version}
            case "drain":
                node.drain()
                return {"draining": True}
            case "shares":
                state = node.state
                if state is None or not node.is_serving:
                    raise PoolStateRefused("this KME has no pool's state yet")
                return make_shares(state)
            case "recover":
                return self._recoverer().begin(command.argument)
            case "share":
                state, progress = self._recoverer().take(command.argument)
                if state is not None:
                    # What the owners have signed since the shares were made holds after a recovery, too.
                    for change in self._pool.changes:
                        state = change_manifest(state, read_signed_manifest(change))
                    # The shares may be old; nobody is left to ask.
                    node.restore(state, 0, alone=True)
                return progress
            case _:
                raise PoolStateRefused(f"a KME knows no command {command.verb[:32]!r}")

    def _recoverer(self) -> Recoverer:
        if self._recovery is None:
            raise PoolStateRefused("this KME was not started to recover a pool: start it with 'recover'")
        return self._recovery

    def _status(self) -> Mapping[str, object]:
        node = self.node
        status: dict[str, object] = {
            "instance": self._instance,
            "serving": node.is_serving,
            "revision": node.revision,
            "wpes": node.wpes(),
            "counters": msgspec.to_builtins(node.counters),
        }
        if node.state is not None:
            pool = node.office.pool
            status |= {
                "pool": pool.pool_id,
                "manifest": {"version": pool.manifest.version, "digest": pool.manifest_digest},
                "epochs": [
                    {
                        "number": keys.epoch.number,
                        "made_at": keys.epoch.made_at,
                        "key": keys.keys.hpke.public_key.key_id,
                    }
                    for keys in pool.epochs
                ],
            }
        return status

    def _unseal(self) -> tuple[str, PoolState, int]:
        if self._pool.sealed is None:
            raise StartRefused("pool start 'restore' needs the sealed state, and the host gave none")
        try:
            plain = _sealed_decoder.decode(self._platform.unseal(self._pool.sealed))
            return plain.instance, decode_state(plain.state), plain.revision
        except (SealingFailed, PoolStateRefused, msgspec.DecodeError) as exc:
            reason = exc.message if isinstance(exc, AvalonError) else "what it holds is no pool's state"
            raise StartRefused(
                f"the sealed state of the pool does not open: {reason}. Bring back the platform state with which it was "
                "sealed, or let this KME join by a peer"
            ) from None


def _keystore(pool: Pool, configure: Configure) -> KeyStore:
    owner = Owner(role=ROLE, worker_name=pool.manifest.worker_name, tenant=configure.tenant)
    return KeyStore(owner=owner, signing=pool.signing, encryption=pool.current.keys)


def _number(argument: bytes, name: str) -> int:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return int(json.loads(argument)[name])
    raise PoolStateRefused(f"expected a JSON object with the number {name!r}")


_EVENTS = {
    "kme_joined": Event.KME_JOINED,
    "kme_serving": Event.KME_SERVING,
    "wpe_joined": Event.WPE_JOINED,
    "link_closed": Event.LINK_CLOSED,
    "rollback_detected": Event.ROLLBACK_DETECTED,
}
