"""A limit on how long a client may take to say what it wants, which the server itself does not have."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP, closing connections whose next request's header is not whole after so many seconds.

    Between requests, before a byte of the next one is here, uvicorn's own `timeout_keep_alive` holds.
    """

    class Impatient(H11Protocol):
        _ends: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._ends is not None:
                self._ends.cancel()

        def _watch(self) -> None:
            waiting = self.conn.their_state is h11.IDLE
            if waiting and self._ends is None:
                self._ends = self.loop.call_later(seconds, self.transport.close)
            elif not waiting and self._ends is not None:
                self._ends.cancel()
                self._ends = None

    return Impatient
