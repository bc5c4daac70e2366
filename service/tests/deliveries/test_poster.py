"""One post: resolved once, connected to what was checked, nothing of the answer believed or kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from avalon_service.deliveries.addresses import AddressRefused, AddressRules
from avalon_service.deliveries.poster import HttpPoster, PinnedResolver, PostFailed, PostRefused

RULES = AddressRules(allow_http=True, allow_private=True, ports=())
PUBLIC_ONLY = AddressRules(allow_http=True, ports=())


class Names:
    """A name server that answers as told, a different answer each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class RawReceiver:
    """Answers any request with the same bytes."""

    def __init__(self, answer: bytes, *, endless: bytes = b"") -> None:
        self.answer = answer
        self.endless = endless
        self.requests: list[bytes] = []
        self.written = 0

    async def __aenter__(self) -> RawReceiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            writer.write(self.answer)
            while self.endless:
                writer.write(self.endless)
                self.written += len(self.endless)
                await writer.drain()
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def poster_with() -> AsyncIterator[Callable[..., HttpPoster]]:
    made: list[HttpPoster] = []

    def make(rules: AddressRules = RULES, resolve: Names | None = None, timeout: float = 5.0) -> HttpPoster:
        made.append(HttpPoster(rules, timeout=timeout, resolve=resolve))
        return made[-1]

    yield make
    for poster in made:
        await poster.close()


OK = b"HTTP/1.1 204 No Content\r\n\r\n"


async def test_a_post_goes_to_the_address_that_was_checked(poster_with: Callable[..., HttpPoster]) -> None:
    names = Names(["127.0.0.1"])
    async with RawReceiver(OK) as receiver:
        await poster_with(resolve=names).post(f"http://receiver.example:{receiver.port}/p?q", b"{}", key="k")
    assert names.asked == 1
    [head] = receiver.requests
    assert head.startswith(b"POST /p?q HTTP/1.1\r\n")
    assert f"host: receiver.example:{receiver.port}".encode() in head.lower()
    assert b"idempotency-key: k\r\n" in head.lower()
    assert b"content-type: application/json\r\n" in head.lower()


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["8.8.8.8", "::ffff:127.0.0.1"], ["169.254.169.254"]],
)
async def test_every_address_of_a_name_must_be_allowed(
    poster_with: Callable[..., HttpPoster], addresses: list[str]
) -> None:
    async with RawReceiver(OK) as receiver:
        with pytest.raises(PostRefused, match="not a public one"):
            await poster_with(PUBLIC_ONLY, Names(addresses)).post(
                f"http://receiver.example:{receiver.port}/", b"{}", key="k"
            )
    assert receiver.requests == []


async def test_a_name_that_changes_its_meaning_is_asked_once_a_post(
    poster_with: Callable[..., HttpPoster],
) -> None:
    """Rebinding: what is connected to is what was checked, and the next post is checked anew."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    poster = poster_with(resolve=names)
    async with RawReceiver(OK) as receiver:
        uri = f"http://receiver.example:{receiver.port}/"
        await poster.post(uri, b"{}", key="k")
        with pytest.raises(PostRefused, match="link-local"):
            await poster.post(uri, b"{}", key="k")
    assert (names.asked, len(receiver.requests)) == (2, 1)


async def test_the_resolver_gives_out_addresses_and_no_names() -> None:
    found = await PinnedResolver(PUBLIC_ONLY, Names(["8.8.8.8", "2606:4700:4700::1111"])).resolve(
        "a.example", 443
    )
    assert [(one["hostname"], one["host"]) for one in found] == [
        ("a.example", "8.8.8.8"),
        ("a.example", "2606:4700:4700::1111"),
    ]
    with pytest.raises(AddressRefused):
        await PinnedResolver(PUBLIC_ONLY, Names(["10.0.0.1"])).resolve("a.example", 443)
    with pytest.raises(OSError, match="no address"):
        await PinnedResolver(PUBLIC_ONLY, Names([])).resolve("a.example", 443)


async def test_addresses_are_checked_again_before_each_post(poster_with: Callable[..., HttpPoster]) -> None:
    with pytest.raises(PostRefused, match="loopback"):
        await poster_with(PUBLIC_ONLY).post("http://127.0.0.1:1/", b"{}", key="k")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n", PostRefused),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PostRefused),
        (b"HTTP/1.1 410 Gone\r\n\r\n", PostRefused),
        (b"HTTP/1.1 408 Timeout\r\n\r\n", PostFailed),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", PostFailed),
        (b"HTTP/1.1 500 Oops\r\n\r\n", PostFailed),
        (b"SSH-2.0-x\r\n\r\n", PostFailed),
        (b"", PostFailed),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000 + b"\r\n", PostFailed),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", PostFailed),
    ],
    ids=[
        "redirect",
        "400",
        "410",
        "408",
        "429",
        "500",
        "not HTTP",
        "closed",
        "many headers",
        "a long header",
    ],
)
async def test_answers(poster_with: Callable[..., HttpPoster], answer: bytes, error: type[Exception]) -> None:
    async with RawReceiver(answer) as receiver:
        with pytest.raises(error):
            await poster_with().post(f"http://127.0.0.1:{receiver.port}/", b"{}", key="k")


async def test_an_endless_answer_is_not_read(poster_with: Callable[..., HttpPoster]) -> None:
    endless = b"x" * 65536
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n"
    async with RawReceiver(head, endless=endless) as receiver:
        async with asyncio.timeout(5):
            await poster_with().post(f"http://127.0.0.1:{receiver.port}/", b"{}", key="k")
    assert receiver.written < 32 * 1024 * 1024


async def test_a_receiver_that_trickles_is_given_up(poster_with: Callable[..., HttpPoster]) -> None:
    hold = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await hold.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    with pytest.raises(PostFailed, match="in time"):
        await poster_with(timeout=0.2).post(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"{}", key="k"
        )
    hold.set()
    server.close()


async def test_a_name_that_does_not_exist(poster_with: Callable[..., HttpPoster]) -> None:
    with pytest.raises(PostFailed, match="cannot be resolved"):
        await poster_with(resolve=Names([])).post("http://receiver.example/", b"{}", key="k")
