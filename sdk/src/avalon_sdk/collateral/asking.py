"""One question to a vendor: from the cache where that has a fresh answer, else over the network, else from the cache after all.

An answer is read before it is kept, and again whenever it comes from the cache, so that nothing passes for collateral that is
not what was asked for. Its signatures are not verified here: that is the verdict's part, and so is whether collateral that has
ended may still count (the policy's ``collateral_grace``). Here it is only said.
"""

import enum
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.cache import CachedAnswer, CollateralCache
from avalon_sdk.collateral.errors import BadCollateral, CacheUnusable, NoSuchCollateral, NotCached
from avalon_sdk.collateral.http import Answer, VendorHttp
from avalon_sdk.collateral.reading import UNREADABLE
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import AvalonClientError, BadAnswer, Busy, CannotConnect

T = TypeVar("T")

ATTEMPTS = 3
"""To reach a service that does not answer; one that asks for patience is given it until the deadline."""

_logger = logging.getLogger(__name__)


class Origin(enum.StrEnum):
    """Where a piece of collateral comes from."""

    NETWORK = "network"
    CACHE = "cache"
    STALE = "stale"
    """From the cache, although it should have been asked for again: that failed, or was forbidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One answer among those that collateral was made of."""

    what: str
    url: str
    origin: Origin
    stored_at: int
    """Unix seconds: when it was fetched."""

    ends: int | None
    """Unix seconds: when the vendor's word ends."""

    reason: str = ""
    """Of a stale one: why it was not asked for again."""

    def has_ended(self, at: int) -> bool:
        """Whether the vendor's word has ended at a time (Unix seconds)."""
        return self.ends is not None and self.ends <= at


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[T]):
    """What an answer says."""

    value: T
    ends: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[T]):
    """What to ask, and how to read the answer."""

    url: str
    what: str
    read: Callable[[Answer], Reading[T]]
    """Raises EvidenceError or BadCollateral where the answer is not what was asked for."""

    max_bytes: int
    max_age: int
    """Seconds after which it is asked again, although it has not ended."""

    keep_headers: tuple[str, ...] = ()
    """Lower-case names of headers that belong to the answer."""

    request_headers: Callable[[], Mapping[str, str]] = field(default=dict)
    """Called where the network is asked: keys come from their source, and are in no cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Got(Generic[T]):
    """What was asked for, and where it comes from."""

    value: T
    piece: Piece


class Asker:
    """Asks questions.

    Args:
        http: for those that go over the network.
        cache: None: nothing is kept.
        now: Unix seconds.
        negative_age: seconds for which "there is none" is believed.
        offline: never use the network.
        refresh: ask the network even where the cache has a fresh answer.
    """

    def __init__(
        self,
        http: VendorHttp,
        cache: CollateralCache | None,
        *,
        now: Callable[[], int],
        negative_age: int,
        offline: bool = False,
        refresh: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._http = http
        self._cache = cache
        self._now = now
        self._negative_age = negative_age
        self._offline = offline
        self._refresh = refresh
        self._retry = retry or RetryPolicy(first_pause=0.25, longest_pause=4.0)

    async def ask(self, question: Question[T], deadline: Deadline) -> Got[T]:
        """Ask.

        Raises:
            NoSuchCollateral: the vendor has none.
            NotCached: offline, and the cache has none.
            VendorUnreachable, VendorBusy, BadCollateral: and the cache has none either.
        """
        cached = self._cached(question.url)
        kept = None if cached is None else _reading_of(question, cached)
        now = self._now()
        # A clock that was set back makes nothing fresh.
        is_fresh = cached is not None and cached.stored_at <= now < cached.fresh_until
        if cached is not None and is_fresh and not self._refresh:
            if not cached.found:
                raise NoSuchCollateral(
                    f"{question.what}: the vendor had none {now - cached.stored_at} s ago; it is asked again after "
                    f"{self._negative_age} s, or with --refresh"
                )
            if kept is not None:
                return _got(question, kept, Origin.CACHE, cached.stored_at)
        if self._offline:
            if cached is None or kept is None:
                raise NotCached(
                    f"{question.what} is not in the cache, and the network is not to be used: fetch it before, or import "
                    "a bundle ('avalon collateral import')"
                )
            return _got(question, kept, Origin.STALE, cached.stored_at, "the network was not to be used")
        try:
            return await self._fetch(question, deadline)
        except NoSuchCollateral:
            if kept is None:
                self._keep(negative(question, now=now, age=self._negative_age))
            raise
        except (CannotConnect, Busy, BadAnswer) as exc:
            if cached is None or kept is None:
                raise
            return _got(question, kept, Origin.STALE, cached.stored_at, str(exc))

    async def _fetch(self, question: Question[T], deadline: Deadline) -> Got[T]:
        async def attempt() -> Answer:
            return await self._http.get(
                question.url,
                headers=question.request_headers(),
                max_bytes=question.max_bytes,
                deadline=deadline,
            )

        answer = await self._retry.persist(attempt, deadline, connect_attempts=ATTEMPTS)
        reading = read_answer(question, answer)
        now = self._now()
        self._keep(entry_of(question, answer, reading.ends, now=now, negative_age=self._negative_age))
        return _got(question, reading, Origin.NETWORK, now)

    def _cached(self, url: str) -> CachedAnswer | None:
        if self._cache is None:
            return None
        try:
            return self._cache.get(url)
        except CacheUnusable as exc:
            self._give_up(exc)
            return None

    def _keep(self, entry: CachedAnswer) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(entry)
        except CacheUnusable as exc:
            self._give_up(exc)

    def _give_up(self, exc: CacheUnusable) -> None:
        """Collateral is worth more than its cache: go on without, and say so once."""
        self._cache = None
        _logger.warning("%s", exc)


def read_answer(question: Question[T], answer: Answer) -> Reading[T]:
    """What an answer says.

    Raises:
        BadCollateral: not what was asked for.
    """
    try:
        return question.read(answer)
    except EvidenceError as exc:
        raise BadCollateral(
            f"{question.what}: {question.url.partition('?')[0]} answers something else: {exc.message}"
        ) from exc
    except UNREADABLE as exc:
        # Certificates and CRLs are read part by part, when a part is asked for.
        raise BadCollateral(
            f"{question.what}: {question.url.partition('?')[0]} answers what cannot be read: {exc}"
        ) from exc


def entry_of(
    question: Question[T], answer: Answer, ends: int | None, *, now: int, negative_age: int
) -> CachedAnswer:
    """The cache's entry of an answer."""
    fresh_until = now + question.max_age
    if ends is not None:
        # What had ended when it came is not asked for with every breath: the service has nothing newer for now.
        fresh_until = min(fresh_until, ends if ends > now else now + negative_age)
    headers = {name: answer.headers[name] for name in question.keep_headers if name in answer.headers}
    return CachedAnswer(
        url=question.url,
        what=question.what,
        headers=headers,
        body=answer.body,
        stored_at=now,
        fresh_until=fresh_until,
        ends=ends,
    )


def negative(question: Question[T], *, now: int, age: int) -> CachedAnswer:
    """The cache's entry of "there is none"."""
    return CachedAnswer(
        url=question.url, what=question.what, found=False, stored_at=now, fresh_until=now + age
    )


def _reading_of(question: Question[T], cached: CachedAnswer) -> Reading[T] | None:
    """What a cached answer says; None where it cannot be read (any more)."""
    if not cached.found:
        return None
    try:
        return read_answer(question, Answer(headers=cached.headers, body=cached.body))
    except AvalonClientError:
        return None


def _got(
    question: Question[T], reading: Reading[T], origin: Origin, stored_at: int, reason: str = ""
) -> Got[T]:
    piece = Piece(
        what=question.what,
        url=question.url,
        origin=origin,
        stored_at=stored_at,
        ends=reading.ends,
        reason=reason,
    )
    return Got(value=reading.value, piece=piece)
