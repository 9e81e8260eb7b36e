"""A TCP relay: passes bytes to servers, holds them, or refuses; what a balancer, or a store that hangs, looks like."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from load import HOST


class Relay:
    """Listens on `port`; each connection goes to the first of `targets` that accepts it."""

    def __init__(self, targets: list[int]) -> None:
        self.targets = targets
        self.port = 0
        # While true nothing is passed on, in either direction.
        self.held = False
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for target in list(self.targets):
            try:
                other_reader, other_writer = await asyncio.open_connection(HOST, target)
            except OSError:
                continue
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._pass(reader, other_writer), self._pass(other_reader, writer))
            return
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                while self.held:
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def relaying(*targets: int) -> Iterator[Relay]:
    relay = Relay(list(targets))
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
