"""The web process: REST API and dashboard over the central database. It holds no key and reads no record itself.

Tables come from the vault and studies go to the signer, over their sockets; everything shown is ids, codes and counts.
"""

from central.web.app import Centre, create_app

__all__ = ["Centre", "create_app"]
