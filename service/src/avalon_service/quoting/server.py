"""The listener of the quoting process: Unix stream connections, a framed answer to each framed request.

One thread is enough: an answer takes a few milliseconds at most.
"""

import asyncio
import contextlib
import logging
import socket

from avalon_core.channel.quoting import LENGTH_BYTES, MAX_REQUEST_BYTES, decode_request, encode, frame_length
from avalon_core.errors import ChannelError
from avalon_service.quoting.desk import QuotingDesk

log = logging.getLogger(__name__)

MAX_CLIENTS = 32
"""At a time. A machine has a handful of enclaves, each connected for milliseconds."""

IDLE_SECONDS = 30.0
"""A client that says nothing for so long, or does not take its answer, is let go."""


class QuotingServer:
    """Serves one listening socket until :meth:`stop`."""

    def __init__(self, desk: QuotingDesk) -> None:
        self._desk = desk
        self._clients: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End: nothing new is taken, clients are let go."""
        self._stop.set()

    async def serve(self, listening: socket.socket) -> None:
        """Serve until :meth:`stop`."""
        server = await asyncio.start_unix_server(self._accepted, sock=listening, limit=MAX_REQUEST_BYTES)
        async with server:
            await self._stop.wait()
            server.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                log.warning(
                    "SIMULATED quoting process: more than %d clients, one is turned away", MAX_CLIENTS
                )
                return
            await self._converse(reader, writer)
        except TimeoutError:
            log.info("SIMULATED quoting process: an idle client is let go")
        except ChannelError as exc:
            log.warning("SIMULATED quoting process: a client broke the rules: %s", exc.message)
        except (asyncio.IncompleteReadError, ConnectionError):
            log.debug("SIMULATED quoting process: a client is gone")
        except asyncio.CancelledError:
            # Cancelled by serve() only, which waits for the end.
            log.debug("SIMULATED quoting process: a client is let go")
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                header = await reader.readexactly(LENGTH_BYTES)
                payload = await reader.readexactly(frame_length(header, MAX_REQUEST_BYTES))
            writer.write(encode(self._desk.answer(decode_request(payload))))
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()
