"""A local server that answers as Intel's PCS, a PCCS and AMD's KDS do, with the simulator's statements."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from avalon_core.attestation.collateral import DcapCollateral
from avalon_core.attestation.evidence import Evidence
from avalon_core.attestation.snp.products import Product
from avalon_core.simulator.intel import IntelSimulator
from avalon_core.simulator.intel_tcb import validity_at
from avalon_core.simulator.quotes import SgxReport, TdReport
from avalon_core.simulator.snp import ReportFields, SimulatedAmd
from avalon_sdk.collateral import CollateralCache, CollateralClient, CollateralSettings
from avalon_sdk.deadline import RetryPolicy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

INTEL = IntelSimulator()
SPLS = {"blSPL": "bootloader", "teeSPL": "tee", "snpSPL": "snp", "ucodeSPL": "microcode", "fmcSPL": "fmc"}


@dataclass
class Clock:
    """Unix seconds that tests set."""

    at: int = field(default_factory=lambda: int(datetime.now(UTC).timestamp()))

    def __call__(self) -> int:
        return self.at

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)


@dataclass
class Vendor:
    """Both vendors behind one address. ``misbehave`` may answer in their place, by path."""

    clock: Clock
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Path and query of every request."""

    headers: list[dict[str, str]] = field(default_factory=list)
    misbehave: dict[str, Handler] = field(default_factory=dict)
    chips: dict[Product, SimulatedAmd] = field(
        default_factory=lambda: {product: SimulatedAmd(product) for product in Product}
    )
    crl_as: str = "der"
    """How the PCCS spells CRLs: der, hex or pem."""

    validity: datetime | None = None
    """As of when statements are issued. None: the clock."""

    def count(self, part: str) -> int:
        return sum(part in one for one in self.asked)

    def dcap(self, tee: str, ca: str = "platform") -> DcapCollateral:
        issued = validity_at(self.validity or self.clock.moment)
        return INTEL.collateral(tee, issued, ca=ca, pck_chain=True)  # type: ignore[arg-type]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.headers.append(dict(request.headers))
        handler = self.misbehave.get(request.path)
        if handler is not None:
            return await handler(request)
        return self.proper(request)

    def proper(self, request: web.Request) -> web.Response:
        path = request.path
        for tee in ("sgx", "tdx"):
            if path.startswith(f"/{tee}/certification/v4/"):
                return self.intel(tee, path.removeprefix(f"/{tee}/certification/v4/"), request)
        if path == "/IntelSGXRootCA.der":
            return self.crl(self.dcap("sgx").root_ca_crl, "der")
        _, kind, version, name, what = path.split("/")
        if kind not in ("vcek", "vlek") or version != "v1" or name not in list(Product):
            return web.Response(status=400)
        return self.amd(kind, self.chips[Product(name)], what, request)

    def intel(self, tee: str, what: str, request: web.Request) -> web.Response:
        query = request.query
        dcap = self.dcap(tee, query.get("ca", "platform"))
        match what:
            case "tcb":
                if query["fmspc"] != "53494d000000":
                    return web.Response(status=404)
                body = f'{{"tcbInfo":{dcap.tcb_info},"signature":"{dcap.tcb_info_signature}"}}'
                return self.statement(body, "TCB-Info-Issuer-Chain", dcap.tcb_info_issuer_chain)
            case "qe/identity":
                body = f'{{"enclaveIdentity":{dcap.qe_identity},"signature":"{dcap.qe_identity_signature}"}}'
                return self.statement(
                    body, "SGX-Enclave-Identity-Issuer-Chain", dcap.qe_identity_issuer_chain
                )
            case "pckcrl" if tee == "sgx" and query.get("encoding") == "der":
                response = self.crl(dcap.pck_crl, self.crl_as)
                response.headers["SGX-PCK-CRL-Issuer-Chain"] = quote(dcap.pck_crl_issuer_chain, safe="")
                return response
            case "rootcacrl" if tee == "sgx":
                return self.crl(dcap.root_ca_crl, "hex")
            case "pckcert" if tee == "sgx":
                return self.pck_certificate(dcap, request)
        return web.Response(status=404)

    def pck_certificate(self, dcap: DcapCollateral, request: web.Request) -> web.Response:
        query = request.query
        needed = {"cpusvn": 32, "pcesvn": 4, "pceid": 4}
        if any(len(query.get(name, "")) != size for name, size in needed.items()):
            return web.Response(status=400)
        if not query.get("qeid") and request.headers.get("Ocp-Apim-Subscription-Key") != "key":
            return web.Response(status=401)
        assert dcap.pck_certificate_chain is not None
        end = "-----END CERTIFICATE-----\n"
        leaf, rest = dcap.pck_certificate_chain.split(end, 1)
        return web.Response(
            body=(leaf + end).encode(), headers={"SGX-PCK-Certificate-Issuer-Chain": quote(rest, safe="")}
        )

    def amd(self, kind: str, amd: SimulatedAmd, what: str, request: web.Request) -> web.Response:
        if what == "cert_chain":
            ders = (amd.asvk if kind == "vlek" else amd.ask, amd.ark)
            pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
            return web.Response(body=pem, content_type="application/x-pem-file")
        if what == "crl":
            issued = validity_at(self.validity or self.clock.moment)
            return web.Response(body=amd.crl(last_update=issued.issued, next_update=issued.next_update))
        if bytes.fromhex(what) != amd.default_chip or kind != "vcek":
            return web.Response(status=404)
        tcb = {SPLS[name]: int(value) for name, value in request.query.items()}
        return web.Response(body=amd.vcek(tcb=tcb))

    @staticmethod
    def statement(body: str, header: str, chain: str) -> web.Response:
        return web.Response(
            body=body.encode(), headers={header: quote(chain, safe="")}, content_type="application/json"
        )

    @staticmethod
    def crl(hexed: str, spelling: str) -> web.Response:
        der = bytes.fromhex(hexed)
        if spelling == "pem":
            return web.Response(body=x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))
        return web.Response(body=der if spelling == "der" else hexed.encode())


class _Server:
    """aiohttp in a thread with a loop of its own: the command line under test has another one."""

    def __init__(self, handler: Handler) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        self.url = self._do(self._start())

    async def _start(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def stop(self) -> None:
        self._do(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Any) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(10)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vendor(clock: Clock) -> Iterator[Vendor]:
    """A vendor behind HTTP."""
    vendor = Vendor(clock)
    server = _Server(vendor.answer)
    vendor.url = server.url
    yield vendor
    server.stop()


@pytest.fixture
def elsewhere(clock: Clock) -> Iterator[Vendor]:
    """Another one, on another port."""
    vendor = Vendor(clock)
    server = _Server(vendor.answer)
    vendor.url = server.url
    yield vendor
    server.stop()


@pytest.fixture
def cache(tmp_path: Path) -> CollateralCache:
    return CollateralCache(tmp_path / "cache")


MakeClient = Callable[..., CollateralClient]


@pytest.fixture
def settings(vendor: Vendor) -> CollateralSettings:
    return CollateralSettings(
        intel_url=vendor.url, intel_root_crl_url=f"{vendor.url}/IntelSGXRootCA.der", amd_url=vendor.url
    )


@pytest.fixture
def make_client(settings: CollateralSettings, cache: CollateralCache, clock: Clock) -> MakeClient:
    """A client of the vendor, with a cache of its own and hardly any pauses."""

    def make(**changes: Any) -> CollateralClient:
        given = {
            "settings": settings,
            "cache": cache,
            "now": clock,
            "retry": RetryPolicy(first_pause=0.001, longest_pause=0.002),
        }
        return CollateralClient(**(given | changes))

    return make


def sgx_evidence(**changes: Any) -> Evidence:
    quote = INTEL.sgx_quote(SgxReport(mrenclave=b"\x11" * 32), **changes)
    return Evidence(format="sgx-dcap", document=quote)


def tdx_evidence(**changes: Any) -> Evidence:
    return Evidence(format="tdx", document=INTEL.tdx_quote(TdReport(mrtd=b"\x22" * 48), **changes))


def snp_evidence(
    product: Product = Product.GENOA, *, carried: int = 0, version: int = 3, **changes: Any
) -> Evidence:
    """``carried``: how many of the three certificates come along, leaf first."""
    fields = ReportFields(version=version, measurement=b"\x33" * 48, **changes)
    issued = SimulatedAmd(product).issue(fields)
    return Evidence(format="snp", document=issued.report, certificates=issued.certificates[:carried])


@dataclass(frozen=True)
class Samples:
    """Evidence of the simulator."""

    sgx: Callable[..., Evidence] = sgx_evidence
    tdx: Callable[..., Evidence] = tdx_evidence
    snp: Callable[..., Evidence] = snp_evidence
    intel: IntelSimulator = INTEL


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def day() -> timedelta:
    return timedelta(days=1)
