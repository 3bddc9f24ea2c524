"""PostgreSQL's word that a writer has committed, for `changes.py`: one connection that listens and never writes."""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg
from sqlalchemy import URL

from central.store.engine import CHANNEL

__all__ = ["Notices"]

_AGAIN_S = 0.05  # while the server does not answer: a caller in a loop must not spin
_CONNECT_S = 3


class Notices:
    """What one poller has heard. For one thread at a time."""

    def __init__(self, url: URL) -> None:
        # Without `+psycopg`, as the driver itself reads it.
        self._url = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def heard(self, timeout_s: float) -> bool:
        """Whether a writer committed since the last call, waiting up to `timeout_s` for one.

        True as well when nobody was listening until now, or the server does not answer: what was missed is unknown.
        """
        try:
            if self._connection is None:
                made = psycopg.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_S, application_name="corsia-listens"
                )
                self._connection = made
                made.execute(f"LISTEN {CHANNEL}")
                return True
            self._connection.execute("SELECT 1")  # what was told before this, has come before its answer
            return any([True for _ in self._connection.notifies(timeout=timeout_s, stop_after=1)])
        except psycopg.Error:
            self.close()
            time.sleep(min(timeout_s, _AGAIN_S))
            return True

    def close(self) -> None:
        """Stop listening; asking again begins anew."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
