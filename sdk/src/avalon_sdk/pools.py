"""An operator's end of a pool: what the service tells of it, and what it can be made to do.

Nothing here needs to be trusted with a secret. What the service tells is its own word; a change of the manifest is signed by
the pool's owners, and a recovery share opens for its owner alone.
"""

from typing import TypeVar

import msgspec

from avalon_core.crypto.manifests import SignedManifest
from avalon_core.crypto.recovery import Recovery, Share
from avalon_core.protocol.ids import WorkerId
from avalon_core.protocol.pools import (
    MAX_CHANGE_CHARS,
    MAX_RECOVERY_CHARS,
    MAX_SHARE_CHARS,
    PoolChangeParams,
    PoolChangeResult,
    PoolDrainParams,
    PoolDrainResult,
    PoolParams,
    PoolRecoverParams,
    PoolRecoverResult,
    PoolRotateParams,
    PoolRotateResult,
    PoolShareParams,
    PoolShareResult,
    PoolSharesParams,
    PoolStatusParams,
    PoolStatusResult,
)
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import BadAnswer, BadRequest
from avalon_sdk.planning import require_hex_id
from avalon_sdk.transports.base import Transport

T = TypeVar("T", bound=msgspec.Struct)


class PoolOperator:
    """Speaks for a client that has the operator's token. ``worker_id``: which pool; None: the only one."""

    def __init__(self, transport: Transport, retry: RetryPolicy) -> None:
        self._transport = transport
        self._retry = retry

    async def status(self, worker_id: str | None, deadline: Deadline) -> PoolStatusResult:
        """What there is to know."""
        return await self._again(PoolStatusParams(worker_id=_pool(worker_id)), PoolStatusResult, deadline)

    async def rotate(self, worker_id: str | None, deadline: Deadline) -> PoolRotateResult:
        """New encryption keys."""
        # Once: where it arrived and its answer was lost, a second attempt would make one epoch too many.
        return await self._once(PoolRotateParams(worker_id=_pool(worker_id)), PoolRotateResult, deadline)

    async def drain(self, worker_id: str | None, deadline: Deadline) -> PoolDrainResult:
        """No more orders."""
        return await self._again(PoolDrainParams(worker_id=_pool(worker_id)), PoolDrainResult, deadline)

    async def change(
        self, change: SignedManifest, worker_id: str | None, deadline: Deadline
    ) -> PoolChangeResult:
        """Another manifest. A KME that has it already says so, so that it may be sent again."""
        text = _text(change, MAX_CHANGE_CHARS, "the change")
        return await self._again(
            PoolChangeParams(change=text, worker_id=_pool(worker_id)), PoolChangeResult, deadline
        )

    async def shares(self, worker_id: str | None, deadline: Deadline) -> Recovery:
        """A recovery file."""
        return await self._again(PoolSharesParams(worker_id=_pool(worker_id)), Recovery, deadline)

    async def recover(
        self, recovery: Recovery, worker_id: str | None, deadline: Deadline
    ) -> PoolRecoverResult:
        """Begin a recovery. Sent again, it begins anew with the same key."""
        text = _text(recovery, MAX_RECOVERY_CHARS, "the recovery file")
        return await self._again(
            PoolRecoverParams(recovery=text, worker_id=_pool(worker_id)), PoolRecoverResult, deadline
        )

    async def give_back(self, share: Share, worker_id: str | None, deadline: Deadline) -> PoolShareResult:
        """One owner's share."""
        # Once: after the last share the KME takes no more, and a second attempt would tell of a failure that there was not.
        text = _text(share, MAX_SHARE_CHARS, "the share")
        return await self._once(
            PoolShareParams(share=text, worker_id=_pool(worker_id)), PoolShareResult, deadline
        )

    async def _again(self, command: PoolParams, kind: type[T], deadline: Deadline) -> T:
        return await self._retry.persist(lambda: self._once(command, kind, deadline), deadline)

    async def _once(self, command: PoolParams, kind: type[T], deadline: Deadline) -> T:
        answer = await self._transport.command_pool(command, timeout=deadline.left)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            method = type(command).__name__.removesuffix("Params")
            raise BadAnswer(
                f"{self._transport.address} answered {method} with something else than a {kind.__name__}: {exc}"
            ) from exc


def _pool(worker_id: str | None) -> WorkerId | None:
    return WorkerId(require_hex_id(worker_id, "worker_id")) if worker_id is not None else None


def _text(value: msgspec.Struct, most: int, what: str) -> str:
    text = msgspec.json.encode(value).decode()
    if len(text) > most:
        raise BadRequest(f"{what} has {len(text)} characters: expected at most {most}")
    return text
