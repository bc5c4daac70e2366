"""The collateral that evidence needs, all of it: asked for, put together, and with an account of where each piece comes from.

    async with CollateralClient(cache=CollateralCache()) as client:
        fetched = await client.prefetch(evidence)
    report = appraise(evidence, policy, collateral=fetched.collateral, as_of=now)

What cannot be had is no exception: the verdict says "could not check" of it, and :attr:`Fetched.problems` says why.
"""

import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from avalon_core.attestation.bundles import merged
from avalon_core.attestation.collateral import NO_COLLATERAL, Collateral, SnpCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.snp.products import Product
from avalon_core.errors import EvidenceError
from avalon_sdk.collateral.amd import AmdService
from avalon_sdk.collateral.asking import Asker, Origin, Piece
from avalon_sdk.collateral.cache import CollateralCache
from avalon_sdk.collateral.errors import BadCollateral, NoSuchCollateral
from avalon_sdk.collateral.http import VendorHttp
from avalon_sdk.collateral.intel import IntelService, ca_and_fmspc
from avalon_sdk.collateral.needs import DcapNeed, Need, SnpNeed, needs_of
from avalon_sdk.collateral.reading import pem_text
from avalon_sdk.collateral.settings import CollateralSettings
from avalon_sdk.deadline import Deadline, RetryPolicy
from avalon_sdk.errors import AvalonClientError

DEFAULT_SECONDS = 60.0
"""For everything that one call needs. AMD's service may ask for ten seconds' patience before each answer."""

MAX_EVIDENCE = 64
"""In one call. A file of a thousand pieces of evidence is not to make a thousand requests unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Collateral, and how it was come by."""

    collateral: Collateral = NO_COLLATERAL
    pieces: tuple[Piece, ...] = ()
    problems: tuple[AvalonClientError, ...] = ()
    """What could not be had."""

    notes: tuple[str, ...] = ()

    @property
    def stale(self) -> tuple[Piece, ...]:
        """What should have been asked for again, and could not be. It may have ended, or been withdrawn meanwhile."""
        return tuple(piece for piece in self.pieces if piece.origin is Origin.STALE)

    def raise_for_problems(self) -> None:
        """Return only where everything was had.

        Raises:
            AvalonClientError: the first problem.
        """
        if self.problems:
            raise self.problems[0]


class CollateralClient:
    """Fetches collateral.

    Args:
        settings: whom to ask.
        cache: None: nothing is kept. ``CollateralCache()`` is the user's own.
        offline: use the cache alone, whatever its age.
        refresh: ask the network even where the cache has a fresh answer.
        tls: to trust a private certificate authority.
        now: Unix seconds.
        retry: how to try again.
    """

    def __init__(
        self,
        settings: CollateralSettings | None = None,
        *,
        cache: CollateralCache | None,
        offline: bool = False,
        refresh: bool = False,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], int] = lambda: int(time.time()),
        retry: RetryPolicy | None = None,
    ) -> None:
        settings = settings or CollateralSettings()
        self._http = VendorHttp(tls=tls)
        asker = Asker(
            self._http,
            cache,
            now=now,
            negative_age=settings.negative_age,
            offline=offline,
            refresh=refresh,
            retry=retry,
        )
        self._intel = IntelService(settings, asker)
        self._amd = AmdService(settings, asker)

    async def __aenter__(self) -> "CollateralClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def prefetch(self, *evidence: Evidence, timeout: float = DEFAULT_SECONDS) -> Fetched:
        """What all of this evidence needs; what several need is asked for once.

        Args:
            evidence: of any format.
            timeout: seconds for the whole of it.

        Raises:
            EvidenceError: evidence that cannot be read, or too much of it.
        """
        if len(evidence) > MAX_EVIDENCE:
            raise EvidenceError(
                f"too much evidence at once: got {len(evidence)}, expected at most {MAX_EVIDENCE}"
            )
        deadline = Deadline.after(timeout)
        found = [needs_of(one) for one in evidence]
        needs: list[Need] = []
        for need in (need for each in found for need in each.needs):
            if need not in needs:
                needs.append(need)
        fetched = [await self._fetch(need, deadline) for need in needs]
        notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
        return _together(fetched, notes)

    async def _fetch(self, need: Need, deadline: Deadline) -> Fetched:
        if isinstance(need, DcapNeed):
            try:
                return await self._fetch_dcap(need, deadline)
            except AvalonClientError as exc:
                return Fetched(problems=(exc,))
        return await self._fetch_snp(need, deadline)

    async def _fetch_dcap(self, need: DcapNeed, deadline: Deadline) -> Fetched:
        ca, fmspc, chain = need.ca, need.fmspc, None
        pieces: list[Piece] = []
        if need.platform is not None:
            certificates, piece = await self._intel.pck_chain(
                need.platform, need.kind, need.qe_id, deadline=deadline
            )
            pieces.append(piece)
            chain = pem_text(certificates)
            try:
                ca, fmspc = ca_and_fmspc(certificates[0])
            except EvidenceError as exc:
                raise NoSuchCollateral(f"the platform's certificate: {exc.message}") from exc
        assert ca is not None
        assert fmspc is not None
        dcap, more = await self._intel.collateral(need.tee, fmspc, ca, deadline=deadline, pck_chain=chain)
        return Fetched(collateral=Collateral(dcap=(dcap,)), pieces=(*pieces, *more))

    async def _fetch_snp(self, need: SnpNeed, deadline: Deadline) -> Fetched:
        certificates: list[bytes] = []
        pieces: list[Piece] = []
        problems: list[AvalonClientError] = [NoSuchCollateral(need.problem)] if need.problem else []
        products = need.products
        crl = None
        if need.chip_id is not None:
            try:
                product, vcek, piece = await self._vcek(need, need.chip_id, deadline)
                products = (product,)
                certificates.append(vcek)
                pieces.append(piece)
            except AvalonClientError as exc:
                problems.append(exc)
        if len(products) == 1:
            try:
                if need.needs_issuers:
                    issuers, piece = await self._amd.issuers(products[0], need.kind, deadline=deadline)
                    certificates += issuers
                    pieces.append(piece)
                crl, piece = await self._amd.crl(products[0], need.kind, deadline=deadline)
                pieces.append(piece)
            except AvalonClientError as exc:
                problems.append(exc)
        snp = (
            ()
            if not certificates and crl is None
            else (SnpCollateral(certificates=tuple(certificates), crl=crl),)
        )
        return Fetched(collateral=Collateral(snp=snp), pieces=tuple(pieces), problems=tuple(problems))

    async def _vcek(self, need: SnpNeed, chip_id: bytes, deadline: Deadline) -> tuple[Product, bytes, Piece]:
        """The chip's certificate, from the first product line that has the chip."""
        *others, last = need.products
        for product in others:
            try:
                return product, *await self._amd.vcek(product, chip_id, need.tcb, deadline=deadline)
            except (NoSuchCollateral, BadCollateral):
                # The service need not say in one way only that it knows no such chip of this line.
                continue
        return last, *await self._amd.vcek(last, chip_id, need.tcb, deadline=deadline)


def _together(fetched: Iterable[Fetched], notes: tuple[str, ...]) -> Fetched:
    several = tuple(fetched)
    pieces = dict.fromkeys(piece for one in several for piece in one.pieces)
    return Fetched(
        collateral=merged(one.collateral for one in several),
        pieces=tuple({piece.url: piece for piece in pieces}.values()),
        problems=tuple(problem for one in several for problem in one.problems),
        notes=notes,
    )
