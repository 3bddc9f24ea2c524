"""The signer: certificate authority, study-signing and publication keys, in a process of their own.

It listens on a unix socket only, sees no data, and acts for an operator's token or a site's own signature; a study may
also come from somebody whom the OpenID provider knows. Promoting a model, admitting a site and exporting rows take the
signatures of two operators. What it signs is written to the
database and the log in the same transaction.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import time
from typing import Any

from sqlalchemy import select, update

from central import ipc
from central.config import CentralConfig
from central.identity.principals import Principals
from central.operators import Operator, Operators
from central.signer.admissions import Admissions, Admitted
from central.signer.authority import Authority, SiteCertificate
from central.signer.decisions import Decisions
from central.signer.exports import Exports
from central.signer.invites import Invites
from central.signer.promotions import Promotions
from central.signer.studies import Studies
from central.store import Store
from central.store.models import CertificateRow, SiteRow
from central.succession import finish
from privacy.envelope import PublicKey, read_public
from protocol.errors import (
    AuthenticationError,
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    PermissionRefused,
    UnavailableError,
)
from protocol.trust import JoinCode, Purpose, TrustBundle

__all__ = ["Signer"]

_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NEW_KEY = {"vault": "new_study_key", "federation": "new_run_key"}
_log = logging.getLogger("central.signer")


class Signer:
    """The signer's methods, as `handlers` for `central.ipc.serve`."""

    def __init__(self, config: CentralConfig) -> None:
        self._config = config
        folder = config.state_dir / "signer"
        self._store = Store(config.state_dir)
        finish(config.state_dir, folder, self._store)
        self._authority = Authority(folder, config.name)
        self._invites = Invites(folder / "invites.db")
        self._operators = Operators(config)
        self._principals = Principals(self._operators, self._store, config.identity)
        self._admitted = Admitted(config.state_dir / "signer" / "admitted.db", self._two_persons)
        self._studies = Studies(self._store, self._authority, self._new_key, self._admitted.check)
        self._decisions = Decisions(
            self._store,
            self._operators,
            {
                "propose": Promotions(self._store, self._authority),
                "admit": Admissions(self._store, self._admitted),
                "export": Exports(self._store),
            },
        )

    @property
    def handlers(self) -> dict[str, ipc.Handler]:
        """Method name -> function."""
        return {
            "enrol": self._enrol,
            "renew": self._renew,
            "server_certificate": self._server_certificate,
            "invite": self._invite,
            "revoke": self._revoke,
            "submit": self._submit,
            "propose": self._propose,
            "approve": self._approve,
            "sign_manifest": self._sign_manifest,
            "public_keys": self._public_keys,
            "admitted": self._list_admitted,
        }

    # --- for the gateway

    def _enrol(self, params: dict[str, Any]) -> dict[str, Any]:
        site, csr = _site(params), _bytes(params, "csr_der")
        identity = _identity(params)
        try:
            identity.verify(Purpose.ENROL, csr, _bytes(params, "signature"))
        except IntegrityError:
            raise AuthenticationError("auth.certificate", "the identity key did not sign the request") from None
        trust = self._trust().to_bytes()  # all that can fail comes before the invite is spent
        certificate = self._authority.certify_site(csr, site, self._config.gateway.certificate_days)
        self._invites.spend(site, _hex(params, "secret_hex"))
        self._register(site, identity, certificate)
        return {
            "certificate_pem": certificate.pem.decode(),
            "trust": ipc.text(trust),
            "trust_signature": ipc.text(self._authority.study_key.sign(Purpose.TRUST, trust)),
        }

    def _register(self, site: str, identity: PublicKey, certificate: SiteCertificate) -> None:
        with self._store.begin() as session:
            row = session.get(SiteRow, site)
            if row is None:
                row = SiteRow(name=site, network=self._config.sites.get(site, ""))
                session.add(row)
            row.identity, row.enrolled_at, row.revoked = identity.to_base64(), time.time(), False
            # a new enrolment replaces the old one: what the old key could do ends here
            session.execute(update(CertificateRow).where(CertificateRow.site == site).values(revoked=True))
            session.add(CertificateRow(serial=certificate.serial, site=site, not_after=certificate.not_after))
            self._store.emit(session, "site.enrolled", site=site)
        self._admitted.enrolled(site, identity)
        _log.info("site.enrolled", extra={"fields": {"site": site, "serial": certificate.serial}})

    def _renew(self, params: dict[str, Any]) -> dict[str, Any]:
        site, csr = _site(params), _bytes(params, "csr_der")
        row = self._store.site(site)
        if row is None or row.revoked:
            raise AuthenticationError("auth.revoked" if row else "auth.not-enrolled")
        try:
            PublicKey.from_base64(row.identity).verify(Purpose.RENEW, csr, _bytes(params, "signature"))
        except IntegrityError:
            raise AuthenticationError("auth.certificate", "the identity key did not sign the request") from None
        certificate = self._authority.certify_site(csr, site, self._config.gateway.certificate_days)
        with self._store.begin() as session:
            now = session.get(SiteRow, site)
            if now is None or now.revoked or now.identity != row.identity:
                raise AuthenticationError("auth.revoked")
            session.add(CertificateRow(serial=certificate.serial, site=site, not_after=certificate.not_after))
            self._store.emit(session, "site.renewed", site=site)
        return {"certificate_pem": certificate.pem.decode()}

    def _server_certificate(self, params: dict[str, Any]) -> dict[str, Any]:
        pem = self._authority.certify_server(_bytes(params, "csr_der"), self._config.gateway.names)
        return {"certificate_pem": pem.decode(), "ca_pem": self._authority.ca_pem.decode()}

    # --- for the operator

    def _invite(self, params: dict[str, Any]) -> dict[str, Any]:
        self._check_token(params)
        site = _site(params)
        code = JoinCode(
            site=site,
            ca=self._authority.ca_fingerprint,
            study_key=bytes.fromhex(self._authority.study_key.public.fingerprint),
            secret=self._invites.make(site),
            enrolment=self._config.gateway.enrolment_address,
            fleet=self._config.gateway.fleet_address,
        )
        with self._store.begin() as session:
            self._store.emit(session, "site.invited", site=site)
        return {"site": site, "code": code.encode()}

    def _revoke(self, params: dict[str, Any]) -> dict[str, Any]:
        self._check_token(params)
        site = _site(params)
        self._invites.cancel(site)
        self._admitted.remove(site)
        with self._store.begin() as session:
            row = session.get(SiteRow, site)
            if row is None:
                raise ConflictError("conflict.state", f"no site {site} is enrolled")
            row.revoked = True
            serials = list(session.scalars(select(CertificateRow).where(CertificateRow.site == site)))
            for certificate in serials:
                certificate.revoked = True
            self._store.emit(session, "site.revoked", site=site)
        _log.warning("site.revoked", extra={"fields": {"site": site, "count": len(serials)}})
        return {"site": site, "certificates": len(serials)}

    def _submit(self, params: dict[str, Any]) -> dict[str, Any]:
        who = self._principals.identify(params.get("token"))
        who.check("studies:write")
        draft = params.get("draft")
        if not isinstance(draft, str):
            raise InputError("input.study", "no draft")
        study, digest = self._studies.submit(draft.encode(), who.account)
        return {"id": study, "digest": digest}

    def _propose(self, params: dict[str, Any]) -> dict[str, Any]:
        operator = self._check_token(params)
        return self._decisions.propose(operator, _bytes(params, "statement"), _bytes(params, "signature"))

    def _approve(self, params: dict[str, Any]) -> dict[str, Any]:
        operator, proposal = self._check_token(params), params.get("proposal")
        if not isinstance(proposal, str):
            raise InputError("input.message", "proposal")
        return self._decisions.approve(operator, proposal, _bytes(params, "signature"))

    # --- for the federation and for verification

    def _sign_manifest(self, params: dict[str, Any]) -> dict[str, Any]:
        digest, manifest = params.get("study_digest"), params.get("manifest")
        if not isinstance(digest, str) or not isinstance(manifest, str):
            raise InputError("input.message", "study_digest, manifest")
        return {"signature": ipc.text(self._studies.sign_manifest(digest, manifest))}

    def _public_keys(self, _params: dict[str, Any]) -> dict[str, Any]:
        trust = self._trust()
        return {
            name: getattr(trust, name) for name in ("ca_pem", "study_key", "publication_key", "log_key", "log_origin")
        }

    # --- inside

    def _trust(self) -> TrustBundle:
        try:
            log_key = read_public(self._config.state_dir / "gateway" / "log.pub")
        except (OSError, CorsiaError):
            raise UnavailableError("unavailable.process", "the gateway has no log key yet") from None
        return TrustBundle(
            ca_pem=self._authority.ca_pem.decode(),
            study_key=self._authority.study_key.public.to_base64(),
            publication_key=self._authority.publication_key.public.to_base64(),
            log_key=log_key.to_base64(),
            log_origin=self._config.log_origin,
        )

    def _list_admitted(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"two_persons": self._two_persons(), "sites": self._admitted.all()}

    def _two_persons(self) -> bool:
        """Whether a site needs two operators: one alone could admit none."""
        return "sites" in self._config.two_person and len(self._operators.all()) > 1

    def _check_token(self, params: dict[str, Any]) -> Operator:
        return self._operators.identify(params.get("token"))

    def _new_key(self, role: str, study: str) -> str:
        reply = ipc.call(self._config.socket(role), _NEW_KEY[role], timeout_s=30.0, study=study)
        return str(reply.get("key"))


def _site(params: dict[str, Any]) -> str:
    site = params.get("site")
    if not isinstance(site, str) or not _SITE.fullmatch(site):
        raise PermissionRefused("permission.site", "a site's name is lower-case letters, digits and dashes")
    return site


def _identity(params: dict[str, Any]) -> PublicKey:
    try:
        return PublicKey.from_bytes(_bytes(params, "identity"))
    except (CorsiaError, ValueError):
        raise AuthenticationError("auth.certificate", "the identity key is malformed") from None


def _bytes(params: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(params[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InputError("input.message", name) from None


def _hex(params: dict[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(params[name])
    except (KeyError, TypeError, ValueError):
        raise InputError("input.message", name) from None
