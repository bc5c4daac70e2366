"""Finding a worker, and appraising it before anything is sealed to it.

A record is used in these steps; each failure is a typed error, and nothing is ever sealed to what did not pass:

1. *Retrieve* it under the id that the worker's name gives (the id is a hash of the name).
2. *Read* it; where it names an id, that must be the one asked for.
3. *Appraise* its evidence against the policy, as of now. A record that passed is good for a while as long as not
   a byte of it changes: until its collateral ends or its evidence is too old, and for an hour at most.
4. *Active*: the directory says that the worker takes orders.
"""

import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from avalon_core.attestation.checks import AppraisalReport, Verdict
from avalon_core.attestation.policy import TrustPolicy
from avalon_core.attestation.workers import AppraisedWorker, appraise_worker
from avalon_core.errors import PolicyViolation
from avalon_core.protocol.errors import GeneralError, WorkerStatus
from avalon_core.protocol.ids import WorkerId, worker_id_of
from avalon_core.protocol.orders import FORMAT_HPKE, FORMAT_JSON_RPC
from avalon_core.protocol.workers import WorkerLookUpResult, WorkerRecord, WorkloadInfo, decode_record
from avalon_sdk import trust
from avalon_sdk.deadline import CONNECT_ATTEMPTS, Deadline, RetryPolicy
from avalon_sdk.errors import BadAnswer, BadRequest, NoSuchWorker, SuiteNotOffered, UntrustedWorker
from avalon_sdk.transports.base import ANY_WORKER, Transport, WorkerCriteria

MAX_LISTED_WORKERS = 1000
"""A service that lists more is not asked for more: each costs a call and an appraisal."""

MAX_CACHED_APPRAISALS = 256
"""Workers whose last record that passed is kept, byte for byte: some ten kilobytes each."""

LONGEST_RETROSPECT = timedelta(days=7)
"""An order that was saved is judged as of its own time, but of none longer ago: services keep results about so long."""

Clock = Callable[[], datetime]
"""The time, with a zone."""

_ID = re.compile(r"(0x)?[0-9a-fA-F]{1,64}\Z")
_log = logging.getLogger("avalon_sdk")


class _NamedRecord(msgspec.Struct, frozen=True, rename="camel"):
    worker_id: str | None = None


_named_decoder = msgspec.json.Decoder(_NamedRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWorker:
    """A worker of the service with what its evidence came to at some time. It may be trusted or not."""

    worker_id: WorkerId
    record: WorkerRecord
    report: AppraisalReport
    appraised: AppraisedWorker | None = field(repr=False)
    """Its keys, where it passed."""

    @property
    def is_trusted(self) -> bool:
        """Its evidence passed."""
        return self.appraised is not None

    @property
    def simulated(self) -> bool:
        """The evidence, or the record itself, says that no hardware stands behind it."""
        claims = self.report.claims
        return self.record.details.worker_type_data.simulated or (claims is not None and claims.simulated)

    @property
    def mode(self) -> str:
        """What protects it, in a word: ``sgx``, ``SIMULATED sgx``, or ``unknown`` where its evidence does not verify."""
        return mode_of(self.report, told=self.record.details.worker_type_data.simulated)

    @property
    def status(self) -> str:
        """The directory's status, in words."""
        try:
            return WorkerStatus(self.record.status).name.lower().replace("_", "-")
        except ValueError:
            return f"status {self.record.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedWorker:
    """A worker whose evidence passed: it may be sealed to."""

    worker_id: WorkerId
    name: str | None
    """Where it was asked for by name."""

    record: WorkerRecord = field(repr=False)
    appraised: AppraisedWorker = field(repr=False)

    @property
    def report(self) -> AppraisalReport:
        """Every check that was made."""
        return self.appraised.report

    @property
    def simulated(self) -> bool:
        """No hardware protects what is sent to it."""
        return self.report.claims is None or self.report.claims.simulated

    @property
    def mode(self) -> str:
        """What protects it, in a word: ``sgx``, ``tdx``, ..., or ``SIMULATED sgx``."""
        return mode_of(self.report)

    @property
    def payload_formats(self) -> frozenset[str]:
        """What it says that it reads."""
        return self.record.details.payload_formats

    @property
    def workloads(self) -> tuple[WorkloadInfo, ...]:
        """What it says that it offers."""
        return self.record.details.workloads

    def require_suite(self, suite: str) -> None:
        """Return only where the worker offers the suite. Nothing weaker is ever taken in its place.

        Raises:
            SuiteNotOffered
        """
        needed = FORMAT_HPKE if suite == FORMAT_HPKE else FORMAT_JSON_RPC
        offered = self.payload_formats
        if needed in offered or (needed == FORMAT_JSON_RPC and needed in {text.upper() for text in offered}):
            return
        listed = ", ".join(sorted(offered))[:200] or "nothing"
        raise SuiteNotOffered(
            f"worker {self.worker_id} does not offer the suite {suite!r}: it offers {listed}. Nothing was sent. "
            "Choose another worker; or, knowing that it is weaker, name a suite that it offers."
        )


def mode_of(report: AppraisalReport, *, told: bool = False) -> str:
    """What protects a worker by its report, in a word. ``told``: its record says that it is simulated."""
    claims = report.claims
    if claims is None:
        return "SIMULATED" if told else "unknown"
    return f"SIMULATED {claims.tee}" if claims.simulated or told else str(claims.tee)


def utc_now() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """A record that passed, and under which policy."""

    raw: bytes
    """Compared as it is: that takes a hundredth of the time of a digest over it."""

    policy: TrustPolicy
    record: WorkerRecord
    appraised: AppraisedWorker


class WorkerFinder:
    """Retrieves and appraises; keeps what passed."""

    def __init__(
        self,
        transport: Transport,
        policy: TrustPolicy | None,
        retry: RetryPolicy,
        clock: Clock = utc_now,
    ) -> None:
        self._transport = transport
        self._policy_was_given = policy is not None
        self.policy = policy if policy is not None else trust.default_policy(loopback=transport.is_loopback)
        self._retry = retry
        self._clock = clock
        self._passed: OrderedDict[WorkerId, _Passed] = OrderedDict()
        self._warned = False

    async def find(self, *, name: str | None, worker_id: str | None, deadline: Deadline) -> TrustedWorker:
        """The worker of this name or id; of neither, the first active one whose record passes.

        Raises:
            NoSuchWorker, UntrustedWorker, BadRequest, and what transports raise.
        """
        if name is None and worker_id is None:
            return await self._first(deadline)
        wanted = self._wanted_id(name, worker_id)
        listed = await self.retrieve(wanted, deadline)
        return self._admit(listed, name)

    async def listed(
        self, deadline: Deadline, criteria: WorkerCriteria = ANY_WORKER
    ) -> AsyncGenerator[ListedWorker, None]:
        """Every worker of the service that matches, trusted or not."""
        async for worker_id in self._ids(deadline, criteria):
            try:
                yield await self.retrieve(worker_id, deadline)
            except NoSuchWorker:
                continue  # gone since it was listed

    async def retrieve(self, worker_id: WorkerId, deadline: Deadline) -> ListedWorker:
        """Steps 1 to 3, whatever the verdict."""
        raw = await self._retry.persist(
            lambda: self._transport.retrieve_worker(worker_id, timeout=deadline.left),
            deadline,
            connect_attempts=CONNECT_ATTEMPTS,
        )
        return self.appraise(worker_id, raw)

    def appraise(self, worker_id: WorkerId, raw: bytes) -> ListedWorker:
        """Steps 2 and 3, of a record that is at hand. One that passed and is the same costs a comparison.

        Raises:
            BadAnswer: not a record, or another worker's.
        """
        kept = self._kept(worker_id, raw)
        if kept is not None:
            return ListedWorker(
                worker_id=worker_id,
                record=kept.record,
                report=kept.appraised.report,
                appraised=kept.appraised,
            )
        try:
            record = decode_record(raw)
            named = _named_decoder.decode(raw).worker_id
        except (GeneralError, msgspec.DecodeError) as exc:
            raise BadAnswer(f"{self._transport.address}: worker {worker_id}: {exc}") from exc
        if named is not None and named != worker_id:
            raise BadAnswer(
                f"{self._transport.address} answered the record of another worker: got {named!r:.80}, expected "
                f"{worker_id!r}"
            )
        report, appraised = appraise_worker(record, self.policy, worker_id=worker_id, as_of=self._clock())
        if appraised is not None:
            self._passed[worker_id] = _Passed(raw=raw, policy=self.policy, record=record, appraised=appraised)
            if len(self._passed) > MAX_CACHED_APPRAISALS:
                self._passed.popitem(last=False)
        return ListedWorker(worker_id=worker_id, record=record, report=report, appraised=appraised)

    def _kept(self, worker_id: WorkerId, raw: bytes) -> _Passed | None:
        """What passed before and is still good, under the policy of now. What did not pass is appraised every time."""
        kept = self._passed.get(worker_id)
        if kept is None or kept.raw != raw or kept.policy is not self.policy:
            return None
        return kept if self._is_good(kept.appraised) else None

    def _is_good(self, appraised: AppraisedWorker) -> bool:
        return self._clock().timestamp() < appraised.good_until

    async def renewed(self, worker: TrustedWorker, deadline: Deadline) -> TrustedWorker:
        """The worker itself while its appraisal is good; then its record is retrieved and appraised again.

        Raises:
            NoSuchWorker, UntrustedWorker, and what transports raise.
        """
        if self._is_good(worker.appraised):
            return worker
        return await self.find(name=worker.name, worker_id=worker.worker_id, deadline=deadline)

    def _admit(self, listed: ListedWorker, name: str | None) -> TrustedWorker:
        """Step 4, and the error of step 3."""
        worker = self._trusted(listed, name)
        if not listed.record.is_active:
            raise NoSuchWorker(
                f"worker {name or listed.worker_id} takes no orders: got status {listed.status!r}, expected "
                "'active'. Choose another worker, or ask the operator."
            )
        self._warn_once(worker)
        return worker

    def _trusted(self, listed: ListedWorker, name: str | None) -> TrustedWorker:
        if listed.appraised is None or listed.report.verdict is not Verdict.PASSED:
            raise self._untrusted(listed)
        return TrustedWorker(
            worker_id=listed.worker_id, name=name, record=listed.record, appraised=listed.appraised
        )

    def _warn_once(self, worker: TrustedWorker) -> None:
        if worker.simulated and not self._warned:
            self._warned = True
            self._warn(worker)

    def _warn(self, worker: TrustedWorker) -> None:
        message = (
            f"worker {worker.worker_id} is SIMULATED: no hardware protects the data, its operator can read all "
            "of it. Never send real secrets to it."
        )
        if self._policy_was_given:
            _log.warning(message)
        else:
            warnings.warn(message, trust.SimulatedWorkerWarning, stacklevel=2)

    def _untrusted(self, listed: ListedWorker) -> UntrustedWorker:
        try:
            listed.report.raise_for_verdict()
            why = "its keys are not usable"
        except PolicyViolation as exc:
            why = exc.message
        hint = ""
        if not self._policy_was_given and not self._transport.is_loopback:
            hint = f" No trust policy was given, and the default admits nobody beyond this machine. {trust.HOW_TO_TRUST}"
        return UntrustedWorker(
            f"worker {listed.worker_id} is not trusted, and nothing was sent to it: {why}{hint}",
            report=listed.report,
        )

    async def _first(self, deadline: Deadline) -> TrustedWorker:
        refused: UntrustedWorker | None = None
        inactive = 0
        async for listed in self.listed(deadline):
            if not listed.record.is_active:
                inactive += 1
                continue
            try:
                return self._admit(listed, None)
            except UntrustedWorker as exc:
                refused = refused or exc
        if refused is not None:
            raise refused
        raise NoSuchWorker(
            f"{self._transport.address} has no active worker ({inactive} not active). Expected at least one: "
            "look at 'avalon status', or ask the operator."
        )

    def readmit(
        self, worker_id: WorkerId, name: str | None, record: WorkerRecord, *, sealed_at: float | None = None
    ) -> TrustedWorker:
        """Appraise a record that was kept, under the policy of now. Whether the worker is still active does not matter.

        Args:
            worker_id: whose record it must be.
            name: for messages.
            record: as it was kept.
            sealed_at: Unix seconds: what was sealed then is judged as of then, within :data:`LONGEST_RETROSPECT`.
                None: as of now.

        Raises:
            UntrustedWorker
        """
        now = as_of = self._clock()
        if sealed_at is not None:
            # Whoever can write the file can write another time into it: it reaches back a little, and never ahead.
            seconds = min(max(sealed_at, (now - LONGEST_RETROSPECT).timestamp()), now.timestamp())
            as_of = datetime.fromtimestamp(seconds, UTC)
        report, appraised = appraise_worker(record, self.policy, worker_id=worker_id, as_of=as_of)
        listed = ListedWorker(worker_id=worker_id, record=record, report=report, appraised=appraised)
        worker = self._trusted(listed, name)
        self._warn_once(worker)
        return worker

    async def _ids(self, deadline: Deadline, criteria: WorkerCriteria) -> AsyncIterator[WorkerId]:
        tag: str | None = None
        count = 0
        while True:
            page = await self._page(tag, deadline, criteria)
            for worker_id in page.ids:
                if not _ID.match(worker_id):
                    raise BadAnswer(f"{self._transport.address} listed a worker whose id is not hex")
                yield worker_id
                count += 1
                if count >= MAX_LISTED_WORKERS:
                    return
            tag = page.lookup_tag
            if not tag or not page.ids:
                return

    async def _page(
        self, tag: str | None, deadline: Deadline, criteria: WorkerCriteria
    ) -> WorkerLookUpResult:
        return await self._retry.persist(
            lambda: self._transport.look_up_workers(tag, timeout=deadline.left, criteria=criteria),
            deadline,
            connect_attempts=CONNECT_ATTEMPTS,
        )

    @staticmethod
    def _wanted_id(name: str | None, worker_id: str | None) -> WorkerId:
        if worker_id is not None and not _ID.match(worker_id):
            raise BadRequest("worker_id: expected hex, up to 32 bytes (a name goes into 'name')")
        if name is None:
            return WorkerId(worker_id or "")
        named = worker_id_of(name)
        if worker_id is not None and worker_id.lower().removeprefix("0x") != named:
            raise BadRequest(
                f"the worker named {name!r} has the id {named}, not {worker_id}: give one of them"
            )
        return named
