"""The operator's token, for those who run a service: it is asked for when it is needed, and kept nowhere.

A token is given as a callable or as the path of a file, never as a text: so it is in no settings, no repr and no log.
"""

from collections.abc import Callable
from pathlib import Path

from avalon_sdk.errors import BadRequest

TokenSource = Callable[[], str]
"""Returns the token. Called for each call that needs it."""

_MAX_TOKEN_BYTES = 1024
_OTHERS = 0o007


class TokenFile:
    """Reads the token from a file each time: the service's ``operator-token``, or a copy."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> str:
        """The token.

        Raises:
            BadRequest: the file cannot be read, everybody can read it, or it holds no token.
        """
        try:
            if self.path.stat().st_mode & _OTHERS:
                raise BadRequest(
                    f"everybody on this machine can use the operator's token {self.path}: chmod 600 it, and have "
                    "a new one made if somebody may have read it"
                )
            with self.path.open("rb") as file:
                token = file.read(_MAX_TOKEN_BYTES + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise BadRequest(
                f"the operator's token {self.path} cannot be read: expected one line of ASCII. It is in the file "
                "operator-token of the service's data directory."
            ) from exc
        return token

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"


def token_source(given: TokenSource | Path | None) -> TokenSource | None:
    """What gives the token.

    Raises:
        BadRequest: the token itself was given.
    """
    if given is None or isinstance(given, TokenFile):
        return given
    if isinstance(given, Path):
        return TokenFile(given)
    if not callable(given):
        raise BadRequest("operator_token: expected the path of a file or a callable, never the token itself")
    return given


def header_of(source: TokenSource) -> str:
    """The value of the HTTP header Authorization.

    Raises:
        BadRequest: there is no usable token.
    """
    token = source()
    if (
        not token
        or not token.isascii()
        or not token.isprintable()
        or " " in token
        or len(token) > _MAX_TOKEN_BYTES
    ):
        raise BadRequest(
            "the operator's token is not one: expected one line of printable ASCII without spaces"
        )
    return f"Bearer {token}"
