"""Corsia: four lanes by which sensitive hospital data become knowledge.

    import corsia
    hub = corsia.connect("http://127.0.0.1:7480", token_file="operator.token")
    hub.sites

`connect` is loaded when first asked for, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corsia.client import Hub, connect

__all__ = ["Hub", "connect"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from corsia import client

        return getattr(client, name)
    raise AttributeError(f"module 'corsia' has no attribute {name!r}")
