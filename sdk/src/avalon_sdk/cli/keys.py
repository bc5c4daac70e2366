"""``avalon requester`` and ``avalon worker push-key``: public keys that a service keeps."""

from pathlib import Path

from avalon_core.crypto.signing import VerificationKey, load_verification_key
from avalon_core.errors import KeyFormatError
from avalon_core.protocol.limits import MAX_PEM_CHARS
from avalon_sdk.cli.directory import worker_id
from avalon_sdk.cli.exits import ExitCode
from avalon_sdk.cli.output import show, show_json
from avalon_sdk.cli.trusting import open_client, read_key
from avalon_sdk.errors import BadRequest


async def set_requester_key(
    url: str,
    requester_id: str,
    *,
    public_key: Path | None,
    token_file: Path,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Register a requester's key, or (None) take it away."""
    key = _read_public(public_key) if public_key is not None else None
    async with open_client(url, None, (), operator_token=token_file) as client:
        await client.set_requester_key(requester_id, key, timeout=timeout)
    if as_json:
        show_json({"requester_id": requester_id, "verifying_key": key.pem if key is not None else None})
    else:
        show(f"{requester_id}  {'must sign its orders' if key is not None else 'need not sign its orders'}")
    return ExitCode.OK


async def show_requester_key(
    url: str, requester_id: str, *, token_file: Path, timeout: float, as_json: bool
) -> ExitCode:
    """Print the key that is registered for a requester."""
    async with open_client(url, None, (), operator_token=token_file) as client:
        key = await client.requester_key(requester_id, timeout=timeout)
    if as_json:
        show_json({"requester_id": requester_id, "verifying_key": key.pem if key is not None else None})
    else:
        show(key.pem.rstrip() if key is not None else f"{requester_id}  need not sign its orders")
    return ExitCode.OK if key is not None else ExitCode.FAILED


async def push_key(
    url: str,
    named: str,
    *,
    encryption_key: Path,
    key: Path,
    tag: str,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Have the service give out an encryption key of a worker that runs elsewhere."""
    signer = read_key(key)
    pem = _read(encryption_key, "--encryption-key")
    async with open_client(url, None, ()) as client:
        await client.push_encryption_key(worker_id(named), pem, signer, tag=tag, timeout=timeout)
    if as_json:
        show_json({"worker_id": worker_id(named), "tag": tag, "done": "pushed"})
    else:
        show(f"{worker_id(named)}  key pushed for {tag or 'all requesters'}")
    return ExitCode.OK


def _read_public(path: Path) -> VerificationKey:
    try:
        return load_verification_key(_read(path, "--public-key"))
    except KeyFormatError as exc:
        raise BadRequest(
            f"--public-key: {path} is not a secp256k1 public key in PEM; 'openssl ec -in KEY -pubout' makes it from a "
            "private one"
        ) from exc


def _read(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PEM_CHARS).decode("ascii")
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest(f"{option}: {path} cannot be read: expected a public key in PEM") from exc
