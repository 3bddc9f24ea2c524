"""The signer's public keys as another process of the centre knows them: asked for once, over its socket."""

from __future__ import annotations

from pathlib import Path

from central import ipc
from privacy.envelope import PublicKey

__all__ = ["SignerKeys"]


class SignerKeys:
    """Study-signing and publication key.

    Args:
        socket: the signer's.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._known: dict[str, str] = {}

    def study_key(self) -> PublicKey:
        """Verifies studies.

        Raises:
            UnavailableError: `unavailable.process`.
        """
        return self._key("study_key")

    def publication_key(self) -> PublicKey:
        """Verifies model manifests. Raises as `study_key`."""
        return self._key("publication_key")

    def _key(self, name: str) -> PublicKey:
        if name not in self._known:
            self._known = {key: str(value) for key, value in ipc.call(self._socket, "public_keys").items()}
        return PublicKey.from_base64(self._known[name])
