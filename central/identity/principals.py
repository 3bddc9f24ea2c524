"""By a token, who asks: an operator of the register, or an account. The web process and the signer ask here alike.

An access token of the provider is verified by the web process alone (`provider.py`, which needs the network) and
remembered by its digest; here it is only looked up.
"""

from __future__ import annotations

from central.identity.access import SESSION, TOKEN, Access
from central.identity.rights import SCOPES, Principal, Role
from central.identity.settings import IdentityConfig
from central.operators import Operators, is_jwt
from central.store import Store
from protocol.errors import AuthenticationError, PermissionRefused

__all__ = ["MAX_TOKEN", "Principals"]

MAX_TOKEN = 8192  # characters: access tokens with many groups are long


class Principals:
    """Everybody who may ask.

    Args:
        operators: the register of who has a token file.
        store: the central database.
        config: the provider; None: there are operators alone.
    """

    def __init__(self, operators: Operators, store: Store, config: IdentityConfig | None) -> None:
        self.operators = operators
        self.access = None if config is None else Access(store, config)

    def identify(self, token: object) -> Principal:
        """Who asks.

        Raises:
            AuthenticationError: `auth.token`.
        """
        if not isinstance(token, str) or not 0 < len(token) <= MAX_TOKEN:
            raise AuthenticationError("auth.token")
        token = token.strip()
        if self.access is not None and (token.startswith((TOKEN, SESSION)) or is_jwt(token)):
            return self.access.find(token)
        name = self.operators.identify(token).name
        return Principal(name=name, account="", roles=(Role.OPERATOR,), scopes=_OPERATORS, kind="operator")

    def check_study(self, who: Principal, study_digest: str) -> None:
        """Whether somebody may read a study's rows and command its run.

        Raises:
            PermissionRefused: `permission.role`.
        """
        if who.may("centre:operate"):
            return
        if not who.account or self.access is None or not self.access.entitled(who.account, study_digest):
            raise PermissionRefused("permission.role", "this is for who submitted the study, and for operators")


_OPERATORS = frozenset(SCOPES) - {"tokens:write"}
