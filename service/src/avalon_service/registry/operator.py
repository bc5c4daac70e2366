"""The operator's authority over a service: a token in a file that only the operator can read.

It is made at the first start, never printed and never logged; in memory is only its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

FILE_NAME = "operator-token"
MIN_TOKEN_CHARS = 32
"""Of a token that an operator made: shorter ones can be guessed."""

_MAX_TOKEN_BYTES = 1024
_OTHERS = 0o007
_SCHEME = b"bearer "

Headers = Iterable[tuple[bytes, bytes]]
"""Of an HTTP request, names in lower case."""


class TokenUnusable(Exception):
    """The file of the operator's token cannot be used; the message says why and what to do."""


class WrongToken(Exception):
    """The token that was sent is not the operator's."""


class Operator:
    """Recognises the operator."""

    def __init__(self, token: str) -> None:
        self._digest = hashlib.sha256(token.encode()).digest()

    def sent(self, headers: Headers) -> bool:
        """The request carries the operator's token; False where it carries no token at all.

        Raises:
            WrongToken: it carries another. Going on without would hide the mistake.
        """
        for name, value in headers:
            if name == b"authorization":
                token = value[len(_SCHEME) :].strip() if value[: len(_SCHEME)].lower() == _SCHEME else b""
                if not hmac.compare_digest(hashlib.sha256(token).digest(), self._digest):
                    raise WrongToken
                return True
        return False


def open_token(path: Path) -> Operator:
    """Read the token, making it where there is none.

    Raises:
        TokenUnusable: it cannot be read or made, is too short, or others can read it.
    """
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & _OTHERS:
            raise TokenUnusable(
                f"everybody on this machine can read the operator's token {path}: chmod 600 it, and make a new one "
                "(remove the file) if somebody may have read it"
            )
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise TokenUnusable(
            f"the operator's token {path} cannot be read or made: {exc}; it is one line of ASCII"
        ) from exc
    if len(token) < MIN_TOKEN_CHARS:
        raise TokenUnusable(
            f"the operator's token {path} has {len(token)} characters, expected at least {MIN_TOKEN_CHARS}: "
            "remove the file to have one made"
        )
    return Operator(token)


def _make(path: Path) -> None:
    """Whole or not at all, and never readable by others, whatever the umask."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
