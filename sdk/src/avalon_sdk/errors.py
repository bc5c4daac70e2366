"""What the SDK raises. Each message says what happened, what was expected, and what to do.

    AvalonClientError
    ├── BadRequest             the caller's own arguments: nothing was sent
    ├── CannotConnect          no answer came: refused, lost, or silent for too long
    ├── BadAnswer              an answer came that no such service gives: not JSON-RPC, too large, a redirect
    ├── ServiceError           the service answered with an error (space, code, data)
    │   ├── OrderRefused       the order was not taken, or not opened
    │   ├── OrderFailed        the order was taken and came to nothing
    │   ├── Busy               not now: carries how long to wait where the service said so
    │   ├── NoSuchReceipt      nobody created one for the order, or it was purged
    │   └── NotOffered         the service knows no such method or page
    ├── NoSuchOrder            the order never arrived, or was purged
    ├── NoSuchWorker           nobody of that name or id, or nobody who takes orders
    ├── UntrustedWorker        the worker's evidence is not acceptable: carries the appraisal report
    ├── SuiteNotOffered        the worker does not offer the suite: nothing weaker is used instead
    ├── ResultRefused          a result came and is not acceptable: nothing of it was returned
    ├── ReceiptRefused         a receipt, or an update of one, is not what its signer can have said
    ├── KeyRefused             an encryption key is not one that the worker vouches for
    ├── SavedOrderRefused      bytes that are no saved order, or were changed
    ├── JournalUnusable        the journal's directory or an entry cannot be used
    └── ResultTimeout          time is up: says how to resume

Errors of other libraries are translated at one edge each: HTTP in the direct transport, the wire in the JSON-RPC
transport, cryptography in the order's own module.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from avalon_core.errors import AvalonError

if TYPE_CHECKING:
    from avalon_core.attestation.checks import AppraisalReport


class AvalonClientError(AvalonError):
    """The order could not be carried out."""


class BadRequest(AvalonClientError, ValueError):
    """The arguments cannot be made into an order."""


class CannotConnect(AvalonClientError):
    """No answer came. Whether the call arrived is not known; sending the same bytes again is safe."""

    def __init__(self, address: str, reason: str, *, may_pass: bool = True) -> None:
        super().__init__(
            f"no answer from {address}: {reason}. Expected an Avalon service there: start one with 'avalon up', "
            "or give the address of another."
        )
        self.address = address
        self.reason = reason
        self.may_pass = may_pass
        """Trying again may help. (It does not where a certificate is wrong.)"""


class BadAnswer(AvalonClientError):
    """The answer is not one that an Avalon service gives."""


class ServiceError(AvalonClientError):
    """The service answered with an error."""

    def __init__(
        self, message: str, *, code: int, code_name: str = "other", data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.code_name = code_name
        self.data = dict(data or {})
        self.said = ""
        """The service's own words, as they came: nobody vouches for them."""

    def __str__(self) -> str:
        return f"{self.message} (code {self.code}, {self.code_name})"


class OrderRefused(ServiceError):
    """The order was refused."""


class OrderFailed(ServiceError):
    """The order failed."""


class Busy(ServiceError):
    """The service takes no more orders at the moment."""

    def __init__(
        self,
        message: str,
        *,
        code: int,
        code_name: str = "busy",
        data: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, code_name=code_name, data=data)
        self.retry_after = retry_after
        """Seconds, where the service said."""


class NoSuchReceipt(ServiceError):
    """The work order has no receipt."""


class NotOffered(ServiceError):
    """The service knows no such method or page."""


class NoSuchOrder(AvalonClientError):
    """The service does not know the order: it never arrived, or was purged."""


class NoSuchWorker(AvalonClientError):
    """The service has no such worker."""


class UntrustedWorker(AvalonClientError):
    """The worker's evidence is not acceptable. Nothing was sent to it."""

    def __init__(self, message: str, *, report: "AppraisalReport") -> None:
        super().__init__(message)
        self.report = report
        """Every check, with what was expected and found."""


class SuiteNotOffered(AvalonClientError):
    """The worker does not offer this suite."""


class ResultRefused(AvalonClientError):
    """The result is not this order's, not this worker's, or was changed on the way."""


class ReceiptRefused(AvalonClientError):
    """The receipt is not what its signers can have said."""


class KeyRefused(AvalonClientError):
    """The encryption key is not one that the worker vouches for."""


class SavedOrderRefused(AvalonClientError):
    """The bytes are not a saved order, or were changed since it was saved."""


class JournalUnusable(AvalonClientError):
    """The journal cannot be used."""


class ResultTimeout(AvalonClientError):
    """Time is up, and the order has no result yet."""

    def __init__(self, work_order_id: str, waited: float, last: str = "") -> None:
        reason = f" (last: {last})" if last else ""
        super().__init__(
            f"work order {work_order_id} has no result after {waited:.1f} s{reason}. It may still finish: await "
            "the handle's result() again, or give more time."
        )
        self.work_order_id = work_order_id
