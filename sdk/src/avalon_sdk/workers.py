"""Finding a worker, and appraising it before anything is sealed to it.

A record is used in these steps; each failure is a typed error, and nothing is ever sealed to what did not pass:

1. *Retrieve* it under the id that the worker's name gives (the id is a hash of the name).
2. *Read* it; where it names an id, that must be the one asked for.
3. *Appraise* its evidence against the policy. A record that passed once passes by its digest.
4. *Active*: the directory says that the worker takes orders.
"""

import hashlib
import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import msgspec

from avalon_core.attestation import AppraisalReport, AppraisedWorker, TrustPolicy, Verdict, appraise_worker
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
"""Records are some kilobytes; their appraisals are kept by digest."""

_ID = re.compile(r"(0x)?[0-9a-fA-F]{1,64}\Z")
_log = logging.getLogger("avalon_sdk")


class _NamedRecord(msgspec.Struct, frozen=True, rename="camel"):
    worker_id: str | None = None


_named_decoder = msgspec.json.Decoder(_NamedRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWorker:
    """A worker of the service with what its evidence came to. It may be trusted or not."""

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
        claimed = self.report.claims is not None and self.report.claims.simulated
        data = self.record.details.worker_type_data
        return claimed or data.simulated or data.proof_data_type == "TEE-SIMULATED"

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


class WorkerFinder:
    """Retrieves and appraises; keeps appraisals by the digest of the record."""

    def __init__(self, transport: Transport, policy: TrustPolicy | None, retry: RetryPolicy) -> None:
        self._transport = transport
        self._policy_was_given = policy is not None
        self.policy = policy if policy is not None else trust.default_policy(loopback=transport.is_loopback)
        self._retry = retry
        self._appraisals: OrderedDict[bytes, tuple[AppraisalReport, AppraisedWorker | None]] = OrderedDict()
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
        report, appraised = self._appraise(raw, record, worker_id)
        return ListedWorker(worker_id=worker_id, record=record, report=report, appraised=appraised)

    def _appraise(
        self, raw: bytes, record: WorkerRecord, worker_id: WorkerId
    ) -> tuple[AppraisalReport, AppraisedWorker | None]:
        digest = hashlib.sha256(worker_id.encode() + b"\0" + raw).digest()
        found = self._appraisals.get(digest)
        if found is None:
            found = self._appraisals[digest] = appraise_worker(record, self.policy, worker_id=worker_id)
            if len(self._appraisals) > MAX_CACHED_APPRAISALS:
                self._appraisals.popitem(last=False)
        return found

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

    def readmit(self, worker_id: WorkerId, name: str | None, record: WorkerRecord) -> TrustedWorker:
        """Appraise a record that was kept, under the policy of now. Whether the worker is still active does not matter.

        Raises:
            UntrustedWorker
        """
        report, appraised = appraise_worker(record, self.policy, worker_id=worker_id)
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
