"""The service's settings: one frozen record, and where each value came from.

Sources, the later one wins: built-in defaults, the profile, a TOML file, the environment (``AVALON_`` and the name
in capitals), the command line. An unknown name in the file or a value of the wrong type is an error that names it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec
from msgspec import Meta

ENVIRONMENT_PREFIX = "AVALON_"
DEFAULT_PORT = 1947
"""The port of the original's service."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_QUEUED_PER_ADDRESS = 1_000
_NITRO_REFRESH_SECONDS = 3600.0

_Positive = Annotated[float, Meta(gt=0)]
_Count = Annotated[int, Meta(ge=1)]


class SettingsError(Exception):
    """A setting is wrong; the message says which, where it came from, and what is expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set. A field's docstring is its documentation."""

    profile: Literal["development", "production"] = "development"
    """``development`` allows the simulated platform and legacy orders, and says so everywhere."""

    host: str = "127.0.0.1"
    """The address to listen on."""

    port: Annotated[int, Meta(ge=0, le=65535)] = DEFAULT_PORT
    """0: any free port, which is printed."""

    data_dir: str = ""
    """Where the database and sealed keys are kept. Empty: ``$XDG_DATA_HOME/avalon``, or ``~/.local/share/avalon``."""

    store: Literal["sqlite", "memory"] = "sqlite"
    """``memory`` forgets every order at the end: for tests only."""

    worker_name: Annotated[str, Meta(min_length=1, max_length=256)] = "singleton-worker-1"
    """The worker's id is SHA-256 of this name."""

    organization_id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{0,64}\Z")] = ""
    """The organization that runs the worker, hex; a criterion of look-ups."""

    application_type_id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{0,64}\Z")] = ""
    """The kind of application that the worker is for, hex; a criterion of look-ups."""

    platform: Literal["simulated", "gramine", "tsm", "nitro", "tpm"] = "simulated"
    """Which TEE the enclaves run in. Chosen by name, never guessed: ``gramine`` (SGX), ``tsm`` (TDX and SEV-SNP, by
    Linux's configfs-tsm), ``nitro``, ``tpm``, or ``simulated``, which protects nothing. See docs/attestation."""

    platform_config: str = ""
    """The TOML file that configures the platform: ``tpm`` needs one, ``gramine`` and ``tsm`` may have one."""

    simulated_kind: Literal["sgx", "tdx"] = "sgx"
    """Which TEE the simulated platform imitates."""

    evidence_refresh_seconds: Annotated[float, Meta(gt=0, le=7 * 24 * 3600)] = 6 * 3600.0
    """How often a worker's evidence is issued anew, with the collateral of the day: well within what collateral lasts
    (about 30 days) and what policies take for the age of evidence. On ``nitro``, whose documents are valid for three
    hours, every hour at least."""

    enclave_launcher: tuple[str, ...] = ()
    """Program and arguments that load an enclave, where it is not this Python: ``gramine-sgx, avalon-enclave``. The enclave's
    own arguments follow."""

    enclave_channel: Annotated[str, Meta(pattern=r"^(fd|unix|tcp(:[0-9]{1,5})?|vsock:[0-9]{1,10})\Z")] = "fd"
    """How an enclave reaches its host: an inherited descriptor (``fd``); or where its loader passes none, it calls the host
    at ``unix``, ``tcp`` (on loopback, any free port or ``tcp:PORT``) or ``vsock:PORT``."""

    collateral_url: str = ""
    """A caching service (PCCS) that is asked for Intel's collateral, which goes into the worker's record on gramine and tsm.
    Empty: Intel's own service. AMD's is asked in any case where the machine is AMD's."""

    keys: Literal["sealed", "fresh"] = "sealed"
    """``sealed``: the enclave's keys outlive a restart. ``fresh``: new keys at every start, so orders that were
    sealed to the old ones fail."""

    accept_legacy: bool | None = None
    """Accept orders that repeat a (key, iv) pair, as the original's clients send. None: as the profile says."""

    enclave_threads: Annotated[int, Meta(ge=1, le=64)] = 8
    """Orders that one enclave processes at the same time. More than there are cores, so that a few slow workloads
    delay nobody else. Orders of workloads that run in processes of their own are not counted while they run."""

    enclave_children: Annotated[int, Meta(ge=1, le=64)] = 8
    """Processes of one enclave in which workloads run at the same time. Each such workload always has one to itself,
    and beyond that they take turns, so none delays another however slow it is. As many again stay warm."""

    pool: bool = False
    """Run the worker as a pool: key management enclaves (KMEs) hold its keys, work order processing enclaves (WPEs)
    process its orders and hold none. See docs/pool.md."""

    pool_kmes: Annotated[int, Meta(ge=1, le=16)] = 2
    """KMEs on this machine. With one, nobody can tell whether its sealed state was rolled back."""

    pool_wpes: Annotated[int, Meta(ge=0, le=64)] = 2
    """WPEs on this machine that process orders at the same time. 0: they run elsewhere (``avalon wpe``)."""

    pool_spares: Annotated[int, Meta(ge=0, le=64)] = 0
    """WPEs that have joined and wait. Where a WPE may process only some orders, spares keep it fast."""

    pool_more: tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...] = ()
    """Names of further workers, each a pool of its own beside the first, with as many enclaves."""

    pool_manifest: tuple[str, ...] = ()
    """Files of the manifests with which new pools begin, one for each worker. Empty: manifests that admit the enclaves of
    this installation, and that nobody can change. Without effect once there is a pool."""

    pool_recover: bool = False
    """Start the first KME without keys, to take the owners' recovery shares (``avalon pool recover``)."""

    pool_listen: str = ""
    """HOST:PORT where KMEs and WPEs of other machines join (``avalon kme``, ``avalon wpe``). Empty: nowhere."""

    in_flight: _Count = 64
    """Orders handed to one enclave and not yet answered. Those that wait for a process of the enclave's, or run in
    one, are not counted (up to 1,024)."""

    lease_seconds: _Positive = 15.0
    """How long a host holds an order without a sign of life from its enclave."""

    start_timeout_seconds: _Positive = 30.0
    """How long an enclave may take to start."""

    self_registration: bool | None = None
    """Accept new workers that are signed by their own key alone (WorkerRegister without the operator's token).
    Anybody can make a key, so None means: in the development profile only."""

    max_workers: _Count = 10_000
    """Workers in the directory; more are refused."""

    max_body_bytes: _Count = 32 * 1024 * 1024
    """The largest HTTP body."""

    max_queued: _Count = 10_000
    """Orders that are scheduled or processing; more are answered with code 8 (busy)."""

    max_queued_per_requester: _Count = 1_000
    """Of these, orders of one requester id; more are answered with code 8 (busy). Requesters take turns in any case."""

    max_queued_per_address: Annotated[int, Meta(ge=0)] | None = None
    """Of these, orders from one client address (of IPv6 a /64 network); 0 is no cap. None: 1,000, but no cap on a
    service that listens on loopback, where all of its clients come through the same proxy."""

    max_wait_seconds: _Positive = 60.0
    """The longest that one HTTP request is held (synchronous orders and long polls)."""

    body_timeout_seconds: _Positive = 30.0
    """How long a client may take to send a body."""

    order_lifetime_seconds: _Positive = 24 * 3600.0
    """An asynchronous order that is not finished by then expires."""

    keep_finished_seconds: _Positive = 7 * 24 * 3600.0
    """Finished orders are purged after this time."""

    keep_finished_orders: _Count = 1_000_000
    """Finished orders beyond this number are purged, the oldest first."""

    keep_receipts_seconds: _Positive = 400 * 24 * 3600.0
    """Receipts are purged this long after their last update, whatever became of their orders: somewhat over a year,
    since they are what a dispute is settled by."""

    delivery_allow_private: bool = False
    """Post results and notifications (resultUri, notifyUri) to loopback and private addresses, too. Anybody who may
    submit an order can then have the service post to them."""

    delivery_hosts: tuple[str, ...] = ()
    """Post to these hosts only, by name; ``.example.org`` is all below it and itself. Empty: to any. Their addresses
    must be public all the same, unless ``delivery_allow_private``."""

    delivery_ports: tuple[Annotated[int, Meta(ge=1, le=65535)], ...] = (80, 443, 8080, 8443)
    """Post to these ports only. Empty: to any. The production profile posts over https alone."""

    delivery_timeout_seconds: _Positive = 10.0
    """How long a receiver may take to accept a post."""

    delivery_attempts: _Count = 12
    """A post that failed as often is dead: it is kept for the operator and not tried again."""

    delivery_first_retry_seconds: _Positive = 1.0
    """The pause after the first failure; each one after it is twice as long."""

    delivery_longest_retry_seconds: _Positive = 3600.0
    """The longest pause between two attempts."""

    delivery_concurrency: _Count = 256
    """Posts under way at the same time."""

    delivery_per_host: _Count = 4
    """Of these, posts to one host and port; one at a time while it fails."""

    max_pending_deliveries: _Count = 20_000
    """Posts that are promised and not made yet; orders that ask for more are answered with code 8 (busy)."""

    max_event_streams: _Count = 10_000
    """Clients that follow an order's events at the same time; more are answered with status 503."""

    event_heartbeat_seconds: _Positive = 15.0
    """How often a stream of events shows that it is alive."""

    log_format: Literal["text", "json"] = "text"
    """One line an event on stderr: for people, or as JSON objects."""

    @property
    def is_production(self) -> bool:
        """The profile is production."""
        return self.profile == "production"

    @property
    def accepts_legacy(self) -> bool:
        """What ``accept_legacy`` comes to under the profile."""
        return self.accept_legacy if self.accept_legacy is not None else not self.is_production

    @property
    def evidence_period(self) -> float:
        """What ``evidence_refresh_seconds`` comes to on the platform."""
        if self.platform == "nitro":
            return min(self.evidence_refresh_seconds, _NITRO_REFRESH_SECONDS)
        return self.evidence_refresh_seconds

    @property
    def queued_per_address(self) -> int:
        """What ``max_queued_per_address`` comes to where the service listens. 0: no cap."""
        if self.max_queued_per_address is not None:
            return self.max_queued_per_address
        return 0 if self.host in _LOOPBACK else _QUEUED_PER_ADDRESS

    @property
    def accepts_self_registration(self) -> bool:
        """What ``self_registration`` comes to under the profile."""
        return self.self_registration if self.self_registration is not None else not self.is_production


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By name: ``default``, ``file PATH``, ``environment NAME`` or ``command line``."""


def load_settings(
    *, command_line: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> LoadedSettings:
    """Put the settings together.

    Args:
        command_line: by name; None values were not given.
        environment: usually ``os.environ``.
        file: a TOML file.

    Raises:
        SettingsError
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.__struct_fields__, "default")
    for name, value in (_read_file(file) if file else {}).items():
        values[name], origins[name] = value, f"file {file}"
    for name in Settings.__struct_fields__:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            values[name], origins[name] = environment[variable], f"environment {variable}"
    for name, value in command_line.items():
        if value is not None:
            values[name], origins[name] = value, "command line"
    return LoadedSettings(settings=_convert(values, origins), origins=origins)


def _read_file(file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as exc:
        raise SettingsError(f"cannot read the settings file {file}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the settings file {file} is not TOML: {exc}") from exc


def _convert(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    unknown = sorted(set(values) - set(Settings.__struct_fields__))
    if unknown:
        raise SettingsError(
            f"unknown setting {unknown[0]!r}: known are {', '.join(Settings.__struct_fields__)}"
        )
    checked: dict[str, Any] = {}
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name, value in values.items():
        try:
            # Not strict: the environment knows only text.
            if isinstance(value, str) and get_origin(types[name]) is tuple:
                value = [part.strip() for part in value.split(",") if part.strip()]  # noqa: PLW2901
            checked[name] = msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as exc:
            raise SettingsError(f"setting {name} ({origins[name]}): {exc}") from exc
    return Settings(**checked)
