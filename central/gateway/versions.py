"""Which agents this centre speaks with: those of its own minor version, of the one before, and newer ones.

An agent says its version when it begins to watch. One that is too old is told so and gets no assignments; what it has
sealed it may still deliver. A version is a site's word and guards nothing.
"""

from __future__ import annotations

import re
from importlib.metadata import version as installed

from protocol.errors import AuthenticationError

__all__ = ["check_agent"]

_MINOR = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\D.*)?")


def check_agent(said: str, own: str | None = None) -> None:
    """Refuse an agent that is more than one minor version older.

    Args:
        said: by the agent; what is no version, as a development build's may be, passes.
        own: the centre's version, by default the one installed.

    Raises:
        AuthenticationError: `auth.version`.
    """
    theirs, ours = _MINOR.fullmatch(said), _MINOR.fullmatch(own or installed("corsia"))
    if theirs is None or ours is None:
        return
    (major, minor), (own_major, own_minor) = map(int, theirs.groups()), map(int, ours.groups())
    if (major, minor) < (own_major, own_minor - 1):
        raise AuthenticationError("auth.version")
