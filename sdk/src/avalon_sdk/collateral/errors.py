"""What fetching collateral raises. Each is also the SDK's error of its kind, so that callers and exit codes know it.

AvalonClientError
├── CannotConnect
│   └── VendorUnreachable   no answer came, or the service behind it is broken
├── Busy
│   └── VendorBusy          not now: carries how long to wait where the service said so
├── BadAnswer
│   └── BadCollateral       an answer came that is not what was asked for
├── NoSuchCollateral        the vendor has none for this platform, or nobody can ask for it
├── NotCached               offline, and the cache does not have it
└── CacheUnusable           the cache's directory cannot be used
"""

from avalon_sdk.errors import AvalonClientError, BadAnswer, Busy, CannotConnect

_BUSY = 429


class VendorUnreachable(CannotConnect):
    """No answer came."""

    def __init__(self, address: str, reason: str, *, may_pass: bool = True) -> None:
        # CannotConnect's own words are about an Avalon service.
        AvalonClientError.__init__(
            self,
            f"no collateral from {address}: {reason}. Try again, name another service (--pccs, --kds), or bring a bundle "
            "along (--collateral, 'avalon collateral import').",
        )
        self.address = address
        self.reason = reason
        self.may_pass = may_pass


class VendorBusy(Busy):
    """The service takes no more requests at the moment."""

    def __init__(self, address: str, *, status: int = _BUSY, retry_after: float | None = None) -> None:
        asked = "" if retry_after is None else f"; it asks to wait {retry_after:.0f} s"
        super().__init__(f"{address} is busy (HTTP {status}){asked}", code=status, retry_after=retry_after)

    def __str__(self) -> str:
        return self.message


class BadCollateral(BadAnswer):
    """The answer is not the collateral that was asked for. Nothing of it was kept."""


class NoSuchCollateral(AvalonClientError):
    """There is no such collateral."""


class NotCached(AvalonClientError):
    """The cache does not have it."""


class CacheUnusable(AvalonClientError):
    """The cache cannot be used."""
