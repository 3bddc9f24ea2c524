"""The error tree, sorted by what the operator does next.

    CorsiaError
    ├── ConfigurationError   fix the configuration
    ├── InputError           fix the input: file, table, message, study
    ├── AuthenticationError  enrol again, renew, check who the peer is
    ├── PermissionRefused    ask the operator for the right
    ├── PolicyRefused        the site's rule says no: change the study or ask the steward
    ├── ApprovalRequired     wait for, or give, the site's approval
    ├── StudyRefused         the study is not valid here: expired, unsigned, changed, replayed
    ├── BudgetExceeded       the site's budget is spent
    ├── DisclosureRefused    the egress gate held the result back
    ├── IntegrityError       bytes are not what was signed: never retried
    ├── StorageError         make room, or repair the disk
    ├── UnavailableError     transient: the only one retried
    ├── Paused               resume when ready
    ├── WorkerError          the pipeline failed; look at the site's journal
    └── ConflictError        another command got there first

What leaves a hospital about a failure is `error.code` and an opaque id, never the message: a message may
quote a column or a path of the site. Codes are never renamed or reused; `docs/errors.md` is made from `CODES`.
"""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "CODES",
    "ApprovalRequired",
    "AuthenticationError",
    "BudgetExceeded",
    "Code",
    "ConfigurationError",
    "ConflictError",
    "CorsiaError",
    "DisclosureRefused",
    "InputError",
    "IntegrityError",
    "Paused",
    "PermissionRefused",
    "PolicyRefused",
    "StorageError",
    "StudyRefused",
    "UnavailableError",
    "WorkerError",
    "from_code",
]


class CorsiaError(Exception):
    """Any failure this product names.

    Args:
        code: a key of `CODES`, registered for this class.
        message: for the operator of *this* side; never sent across the wall.
    """

    exit_status: ClassVar[int] = 70
    retry_s: float = 0.0  # after how many seconds a retry makes sense, where that is known

    def __init__(self, code: str, message: str = "") -> None:
        entry = CODES.get(code)
        if entry is None or not isinstance(self, entry.error):
            raise AssertionError(f"error code {code!r} is not registered for {type(self).__name__}")
        self.code = code
        self.hint = entry.hint
        self.message = message or entry.summary
        self.id = secrets.token_hex(4)
        super().__init__(f"{self.message} [{code}]")


class ConfigurationError(CorsiaError):
    """Fix the configuration."""

    exit_status = 10


class InputError(CorsiaError):
    """Fix the input."""

    exit_status = 11


class AuthenticationError(CorsiaError):
    """The peer, or this side, is not who it should be."""

    exit_status = 12


class PermissionRefused(CorsiaError):
    """The right is missing."""

    exit_status = 13


class PolicyRefused(CorsiaError):
    """The site's policy says no."""

    exit_status = 14


class ApprovalRequired(CorsiaError):
    """The site has not approved."""

    exit_status = 15


class StudyRefused(CorsiaError):
    """The study is not valid."""

    exit_status = 16


class BudgetExceeded(CorsiaError):
    """The site's budget is spent."""

    exit_status = 17


class DisclosureRefused(CorsiaError):
    """The egress gate held the result back; nothing left."""

    exit_status = 18


class IntegrityError(CorsiaError):
    """Bytes are not what was signed."""

    exit_status = 19


class StorageError(CorsiaError):
    """The disk refused."""

    exit_status = 20

    @classmethod
    def of(cls, error: OSError, message: str = "") -> StorageError:
        """An error of the operating system: `storage.full` without room or quota, else `storage.failed`."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return cls("storage.full" if full else "storage.failed", message)


class UnavailableError(CorsiaError):
    """The other side does not answer now; retried with back-off.

    Args:
        retry_s: after how many seconds a retry makes sense, where that is known; else 0.
    """

    exit_status = 21

    def __init__(self, code: str, message: str = "", *, retry_s: float = 0.0) -> None:
        super().__init__(code, message)
        self.retry_s = retry_s


class Paused(CorsiaError):
    """Egress is paused by the site."""

    exit_status = 22


class WorkerError(CorsiaError):
    """The lane's pipeline failed in its worker."""

    exit_status = 23


class ConflictError(CorsiaError):
    """The state is not what the command expects."""

    exit_status = 24


@dataclass(frozen=True, slots=True)
class Code:
    """One stable code: the class that carries it, what it says, what to do next."""

    error: type[CorsiaError]
    summary: str
    hint: str


CODES: dict[str, Code] = {
    # configuration
    "config.invalid": Code(
        ConfigurationError,
        "the configuration is not valid",
        "correct the named field; `corsia init` writes a commented example",
    ),
    "config.missing": Code(
        ConfigurationError, "the configuration file cannot be read", "check the path given with --config"
    ),
    "config.key-mode": Code(
        ConfigurationError,
        "a key file is readable by others, or is not 32 bytes",
        "chmod 600 the file; a key is exactly 32 raw bytes",
    ),
    "config.passphrase": Code(
        ConfigurationError,
        "the keys are locked, and the passphrase is missing, wrong or lost",
        "set CORSIA_PASSPHRASE_FILE or [keys] passphrase_file (mode 0600); a lost one cannot be replaced: docs/keys.md",
    ),
    "config.extra-missing": Code(
        ConfigurationError,
        "an optional part of corsia is not installed",
        "pip install 'corsia[NAME]' with the extra that the message names",
    ),
    # input
    "input.study": Code(InputError, "the study file is not valid", "correct the named field; see docs/spec/study.md"),
    "input.message": Code(
        InputError,
        "a message on the wire is malformed or oversized",
        "both ends must run compatible versions",
    ),
    "input.medium": Code(
        InputError,
        "a file on the medium is damaged, or is none of ours",
        "nothing was lost or changed by it; export again, to another medium if it happens twice",
    ),
    "input.table": Code(InputError, "the table cannot be read", "check the file's format and encoding"),
    "input.column-missing": Code(
        InputError,
        "the table lacks a column that the study or the site names",
        "compare the study's columns with the dataset (`corsia edge preview`)",
    ),
    "input.dicom": Code(InputError, "a DICOM file does not parse", "the file was set aside; inspect it at the site"),
    "input.deidentified": Code(
        InputError,
        "a file says that it was de-identified under this key already",
        "the file was set aside, not done twice; take the first result",
    ),
    "input.fhir": Code(
        InputError,
        "a file is no FHIR R4, or holds more than R4 knows",
        "the file was set aside; export it as R4 (4.0.1) JSON or NDJSON",
    ),
    "input.documents": Code(
        InputError,
        "the dataset has no such documents, or they cannot be read",
        "compare the study's [dataset] with the site's (`corsia edge preview`)",
    ),
    "input.omop": Code(
        InputError,
        "the OMOP dataset lacks a table, is of another version, or cannot be read",
        "export the tables of CDM 5.4 that the message names; a table may be empty but for its header",
    ),
    "input.source": Code(
        InputError,
        "a place at the hospital answers in a way that cannot be used",
        "check its address and kind in edge.toml: `corsia edge dataset check NAME`",
    ),
    "input.export": Code(
        InputError,
        "a file of a Bulk Data export lies at another server, is packed, or is too large",
        "have the server give NDJSON of at most 2 GiB a file from its own address, packed by Content-Encoding alone",
    ),
    "input.pixels": Code(
        InputError,
        "a DICOM file may show identities in its pixels or attachments",
        "the file was set aside; look at it at the site",
    ),
    "input.image": Code(
        InputError, "an image series or its mask is not usable", "see the reason; the case was set aside"
    ),
    "input.genotypes": Code(
        InputError, "a genotype file is not usable", "see the reason at the site; nothing of it was used"
    ),
    "input.variants": Code(
        InputError,
        "a list of variants, scores or genes is not usable",
        "see the reason; compare build, alleles and columns with the format",
    ),
    "input.matrix": Code(
        InputError, "an omics matrix is not usable", "see the reason at the site; nothing of it was used"
    ),
    "input.rows": Code(InputError, "there are too few usable rows", "check the dataset and the selectors"),
    "input.diverged": Code(InputError, "training left the range of numbers", "lower training.learning_rate"),
    "input.model-size": Code(
        InputError,
        "the model is larger than the study's training.max_model_bytes",
        "raise training.max_model_bytes, or take a smaller model",
    ),
    "input.usage": Code(InputError, "the request cannot be carried out as asked", "see --help"),
    # authentication
    "auth.join-code": Code(
        AuthenticationError,
        "the join code is unknown, used, expired or for another site",
        "ask the consortium for a new one: `corsia central invite SITE`",
    ),
    "auth.fingerprint": Code(
        AuthenticationError,
        "the centre's fingerprint is not the one pinned",
        "do not go on: compare fingerprints with the consortium by telephone",
    ),
    "auth.intercepted": Code(
        AuthenticationError,
        "TLS to the centre is opened on the way: another answers in its name",
        "ask IT to exempt the centre's host and port from TLS inspection; `corsia doctor` names them",
    ),
    "auth.source": Code(
        AuthenticationError,
        "a place at the hospital does not accept the credentials",
        "correct the file that edge.toml names for it: `corsia edge dataset check NAME`",
    ),
    "auth.proxy": Code(
        AuthenticationError,
        "the HTTP proxy does not let this site through",
        "check proxy and proxy_auth in [delivery], and ask IT to allow CONNECT to the centre's host and port",
    ),
    "auth.certificate": Code(
        AuthenticationError,
        "the certificate is missing, foreign or not valid",
        "enrol this site again: `corsia edge enroll --force --code CODE`; its identity key and spool are kept",
    ),
    "auth.expired": Code(
        AuthenticationError,
        "the site's certificate has expired",
        "check the clock; then `corsia central invite SITE` there and `corsia edge enroll --code CODE` here: "
        "identity key and spool are kept",
    ),
    "auth.clock": Code(
        AuthenticationError,
        "a certificate is not valid by this machine's clock",
        "set the clock (NTP); if it is right, tell the consortium: the centre's certificate was not renewed",
    ),
    "auth.revoked": Code(
        AuthenticationError,
        "the certificate has been revoked",
        "ask the consortium why; after a new invite: `corsia edge enroll --force --code CODE`",
    ),
    "auth.tls-version": Code(
        AuthenticationError,
        "the connection is not TLS 1.3",
        "a middlebox may be intercepting: exempt the centre's host and port",
    ),
    "auth.version": Code(
        AuthenticationError, "this agent is too old for the centre", "update Corsia at this site; nothing is lost"
    ),
    "auth.token": Code(
        AuthenticationError,
        "the access token is missing or wrong",
        "use the operator token that `corsia init central` wrote",
    ),
    "auth.provider": Code(
        AuthenticationError,
        "the OpenID provider's answer is not one that this centre believes",
        "log in again; if it goes on, compare [identity] of central.toml with the provider's settings",
    ),
    "auth.operator": Code(
        AuthenticationError,
        "the operator's signature does not verify, or the operator is none any more",
        "use the token file that `corsia central operator add` wrote, whole; else propose again",
    ),
    "auth.not-enrolled": Code(
        AuthenticationError, "this site is not enrolled", "run `corsia edge enroll` with a join code"
    ),
    # permission
    "permission.site": Code(PermissionRefused, "this site is not part of the study", "ask the operator of the study"),
    "permission.source": Code(
        PermissionRefused,
        "a database's credentials may write, or nobody knows whether they may",
        "give credentials that may only read: docs/sources.md says how",
    ),
    "permission.size": Code(
        PermissionRefused,
        "the parcel is larger than the centre takes",
        "select fewer records, or ask the consortium to raise limits.max_parcel_bytes",
    ),
    "permission.role": Code(PermissionRefused, "your role does not allow this", "ask the operator"),
    "permission.second-person": Code(
        PermissionRefused,
        "who asked for it may not approve it",
        "another operator approves; `corsia central operator add NAME` makes one",
    ),
    "permission.admission": Code(
        PermissionRefused,
        "the site has enrolled and waits for two operators to admit it",
        "compare its fingerprint by telephone, then two of them run `corsia central admit SITE --fingerprint F`",
    ),
    # policy of the site
    "policy.dataset": Code(PolicyRefused, "the dataset is not offered by this site", "see what the site advertises"),
    "policy.lane": Code(PolicyRefused, "the site does not allow this lane for the dataset", "ask the site's steward"),
    "policy.pipeline": Code(
        PolicyRefused,
        "the pipeline, or its version, is not installed or not allowed at the site",
        "ask the site to install it, or use a version that it has",
    ),
    "policy.plugin": Code(
        PolicyRefused,
        "the plug-in is not installed here as approved, not allowed, or cannot be isolated",
        "ask the site's steward: policy.plugins names it as name==version, and `corsia edge approve` what changed",
    ),
    "policy.purpose": Code(PolicyRefused, "the site does not allow this purpose", "ask the site's steward"),
    "policy.columns": Code(
        PolicyRefused, "the study asks for columns that the site does not release", "drop the columns"
    ),
    "policy.k": Code(PolicyRefused, "the study asks for a smaller k than the site allows", "raise privacy.k"),
    "policy.cohort": Code(
        PolicyRefused, "the study asks for a smaller cohort than the site allows", "raise privacy.min_cohort"
    ),
    "policy.model-size": Code(
        PolicyRefused,
        "the model, or a round's message, is larger than the study and the site allow",
        "take a smaller model, or ask the site's steward for max_model_bytes",
    ),
    "policy.bytes": Code(PolicyRefused, "the result is larger than the site allows", "select fewer records"),
    "policy.site-metrics": Code(
        PolicyRefused,
        "the study needs each site's own loss, which the site does not release",
        "choose another strategy than qfedavg, or ask the steward for `site_metrics = true`",
    ),
    "policy.epsilon": Code(
        PolicyRefused,
        "the site does not release results without this privacy budget",
        "add differential privacy, or ask the site's steward",
    ),
    "policy.masks": Code(PolicyRefused, "the site asks for secure aggregation", "set privacy.secure_aggregation"),
    "policy.consent": Code(
        PolicyRefused,
        "consent is required, and the dataset has no consent column",
        "name it under [datasets.NAME.consent]",
    ),
    "policy.refused": Code(PolicyRefused, "the site's steward refused the study", "talk to the site"),
    # approval
    "approval.pending": Code(
        ApprovalRequired,
        "the study waits for approval at the site",
        "`corsia edge approve STUDY` at the site",
    ),
    "approval.changed": Code(
        ApprovalRequired,
        "study or installed code changed since the approval",
        "`corsia edge approve STUDY` shows what changed",
    ),
    # study
    "study.signature": Code(
        StudyRefused,
        "the study is not signed by the pinned study-signing key",
        "do not run it; tell the consortium",
    ),
    "study.expired": Code(StudyRefused, "the study has expired", "submit it again with a later date"),
    "study.replay": Code(
        StudyRefused, "an instruction was already carried out or is out of order", "none: it was ignored"
    ),
    "study.rounds": Code(
        StudyRefused,
        "the round is beyond training.max_rounds, which the sites approved",
        "submit a study with more rounds; the sites approve it anew",
    ),
    "study.late": Code(
        StudyRefused,
        "the answer came after its round or its study was closed",
        "none: it was discarded; see training.deadline_s",
    ),
    "study.unknown": Code(StudyRefused, "no such study here", "check the id: `corsia study ls`"),
    "study.erased": Code(
        StudyRefused, "the study was erased, or its time is over: its keys are destroyed", "none: nothing can be read"
    ),
    "study.withdrawn": Code(
        StudyRefused,
        "a person whose rows are in it has withdrawn consent: nothing more of it leaves the site",
        "submit a new study: it is made without the person",
    ),
    "study.exists": Code(StudyRefused, "a study with this id exists with other content", "choose another id"),
    # budget
    "budget.bytes": Code(BudgetExceeded, "the dataset's byte budget is spent", "the steward may raise max_bytes"),
    "budget.epsilon": Code(BudgetExceeded, "the dataset's privacy budget is spent", "wait, or ask for less"),
    "budget.ledger": Code(BudgetExceeded, "the ledger does not verify", "restore it from backup; egress stays stopped"),
    # disclosure: the egress gate
    "gate.undeclared": Code(
        DisclosureRefused,
        "the result holds something that the study does not declare",
        "declare it in the study's output and ask for approval again",
    ),
    "gate.k": Code(
        DisclosureRefused,
        "the table is not k-anonymous at the required k",
        "coarsen the columns or raise suppression",
    ),
    "gate.diversity": Code(
        DisclosureRefused,
        "the table is not l-diverse or t-close at the required l and t",
        "coarsen the columns, raise suppression or release fewer sensitive columns",
    ),
    "gate.cohort": Code(DisclosureRefused, "fewer persons than the minimum cohort", "widen the selection"),
    "gate.genotype": Code(
        DisclosureRefused,
        "the result would pin down single genotypes",
        "use a score, gene set or guard that covers more variants and more persons",
    ),
    "gate.cells": Code(
        DisclosureRefused,
        "a cell of a table, missing values included, counts too few persons",
        "merge categories, or let small cells be suppressed",
    ),
    "gate.subset": Code(
        DisclosureRefused,
        "a subset, or what is left without it, has too few persons",
        "widen the subset, or take the whole cohort",
    ),
    "gate.levels": Code(
        DisclosureRefused,
        "a column has too many levels for the number of persons",
        "group the levels, or declare the column as a number",
    ),
    "gate.parameters": Code(
        DisclosureRefused,
        "too many parameters or columns for the number of persons",
        "take fewer columns, or a larger cohort",
    ),
    "gate.quantile": Code(
        DisclosureRefused,
        "a quantile is too near to the ends of the distribution",
        "ask for quantiles between the site's bounds, of a larger cohort",
    ),
    "gate.neighbours": Code(
        DisclosureRefused,
        "the number of nearest neighbours is too small, or too near to all persons",
        "raise the number of neighbours",
    ),
    "gate.noise": Code(
        DisclosureRefused,
        "the noise asked for is below the site's minimum",
        "raise the noise",
    ),
    "gate.text": Code(
        DisclosureRefused,
        "a text argument is too long or is no plain text",
        "shorten it; only names of columns and levels are texts",
    ),
    "gate.dominance": Code(
        DisclosureRefused,
        "one person, or a few, make up most of a sum or mean",
        "widen the cohort, cap the values or coarsen the groups",
    ),
    "gate.differencing": Code(
        DisclosureRefused,
        "with what was released before, the result would single out too few persons",
        "use a cohort that was released before, or one that differs by more persons",
    ),
    "gate.queries": Code(
        DisclosureRefused,
        "so many numbers were released on these persons that single values could be worked out",
        "reuse earlier results, add differential privacy, or ask the site's steward",
    ),
    "gate.residual": Code(
        DisclosureRefused,
        "a value that had to go was found in the result",
        "the files were set aside at the site",
    ),
    "gate.update": Code(
        DisclosureRefused,
        "the update's keys, shapes, types, size or norm are not allowed",
        "check the learner",
    ),
    "gate.bytes": Code(DisclosureRefused, "the result is larger than declared", "declare a larger size or select less"),
    # integrity
    "parcel.format": Code(IntegrityError, "not a parcel, or its header is malformed", "ask for it again"),
    "parcel.version": Code(IntegrityError, "the parcel's version or suite is not supported", "update this side"),
    "parcel.truncated": Code(IntegrityError, "the parcel is truncated or has trailing bytes", "ask for it again"),
    "masks.signature": Code(
        IntegrityError,
        "a key of secure aggregation is not signed by the site it names",
        "nothing was masked against it; find out who spoke in the site's name",
    ),
    "masks.share": Code(
        IntegrityError,
        "a share of secure aggregation is not what its owner signed",
        "the site that sent it was left out; look at its log",
    ),
    "masks.replay": Code(
        IntegrityError,
        "a message of secure aggregation out of order, repeated, or on another set of sites",
        "nothing was released; if the centre did not restart, treat it as an attack",
    ),
    "masks.total": Code(
        IntegrityError,
        "what the sites' masked answers add up to is no model within the study's bounds",
        "a site did not keep to training.max_norm; masks hide which: ask the sites, or run without one of them",
    ),
    "parcel.signature": Code(
        IntegrityError, "the parcel's signature does not verify", "do not use it; ask who sent it"
    ),
    "parcel.key": Code(IntegrityError, "the parcel is not sealed to this key", "use the key that the study names"),
    "parcel.chunk": Code(IntegrityError, "a chunk is damaged, reordered or spliced", "ask for it again"),
    "parcel.context": Code(IntegrityError, "the parcel belongs to another study, site or id", "do not use it"),
    "parcel.replay": Code(IntegrityError, "this parcel id was committed with another digest", "tell the consortium"),
    "parcel.payload": Code(IntegrityError, "what the parcel holds is malformed", "tell the site"),
    "log.proof": Code(
        IntegrityError,
        "an inclusion proof, receipt or checkpoint does not verify",
        "keep the evidence; tell the consortium",
    ),
    "log.witness": Code(
        IntegrityError,
        "the log's checkpoint lacks the witnesses' signatures that are asked for",
        "ask the witnesses what they saw; compare checkpoints with `corsia log checkpoint compare`",
    ),
    "journal.chain": Code(IntegrityError, "the journal's hash chain is broken", "keep it; restore from backup"),
    "model.manifest": Code(IntegrityError, "the model's signed manifest does not verify", "do not use the model"),
    "model.rollback": Code(
        IntegrityError,
        "the model is older than one already accepted",
        "a roll-back needs a signed manifest: `corsia model promote NAME --version V --rollback`",
    ),
    "backup.format": Code(
        IntegrityError,
        "not one whole backup of this kind",
        "take another one; a backup is verified by `corsia edge verify` and `corsia central verify`",
    ),
    "backup.shares": Code(
        IntegrityError,
        "these shares do not give the escrowed keys",
        "ask for shares of this very escrow, as many as it says",
    ),
    "lake.damaged": Code(
        IntegrityError,
        "an object of the lake is damaged, or not the one that belongs there",
        "restore the lake from a backup of its ciphertext",
    ),
    "blob.digest": Code(
        IntegrityError, "a fetched object is not what was signed", "try again; then tell the consortium"
    ),
    # storage
    "storage.full": Code(StorageError, "the disk is full", "make room; work goes on by itself"),
    "storage.spool-full": Code(
        StorageError, "the spool has reached its bound", "wait for delivery, or raise spool_bytes"
    ),
    "storage.newer": Code(
        StorageError,
        "a database was written by a newer version than this one",
        "update this side, or restore a backup of the older version",
    ),
    "storage.older": Code(
        StorageError, "the database is of an older version", "`corsia central serve` brings it forward"
    ),
    "storage.failed": Code(StorageError, "a file cannot be written or read", "check the disk and its rights"),
    # transient
    "unavailable.centre": Code(
        UnavailableError,
        "the centre does not answer",
        "a daemon tries again by itself; else check the address, and at the centre that `corsia central serve` runs",
    ),
    "unavailable.rate": Code(
        UnavailableError,
        "this site asks more often than the centre lets one site",
        "none: it is retried later; else ask the consortium for more: [limits.sites.NAME] in central.toml",
    ),
    "unavailable.quota": Code(
        UnavailableError,
        "this site has sent what the centre takes of one site in a day",
        "none: it is retried; else ask the consortium for more: [limits.sites.NAME] in central.toml",
    ),
    "unavailable.busy": Code(
        UnavailableError, "this site has as many calls open as the centre lets one site", "none: it is retried"
    ),
    "unavailable.idle": Code(
        UnavailableError, "a call stood still for too long and was ended", "none: it is retried from where it stood"
    ),
    "unavailable.source": Code(
        UnavailableError,
        "a place at the hospital does not answer, or has not been pulled to its end yet",
        "none: it is retried; `corsia edge dataset check NAME` says how it stands",
    ),
    "unavailable.process": Code(UnavailableError, "a process of the centre does not answer", "none: it is retried"),
    "unavailable.mlflow": Code(UnavailableError, "MLflow does not answer", "start it; publishing is retried"),
    "unavailable.provider": Code(
        UnavailableError, "the OpenID provider does not answer", "try again; an operator's token works meanwhile"
    ),
    "unavailable.survivors": Code(
        UnavailableError,
        "too few sites are left for secure aggregation; nothing was revealed",
        "wait for the sites that dropped out; the round is tried again under fresh masks or skipped",
    ),
    "unavailable.quorum": Code(
        UnavailableError, "too few sites answered before the deadline", "the round is tried again"
    ),
    # paused
    "paused.site": Code(Paused, "egress is paused at this site", "`corsia edge resume`"),
    "paused.restored": Code(
        Paused,
        "this site's state was put back and does not agree yet with the centre's receipts",
        "the daemon sees to it once the centre answers; see docs/backup.md",
    ),
    # worker
    "worker.failed": Code(WorkerError, "the pipeline failed", "look up the error id in the site's journal"),
    "worker.device": Code(
        WorkerError, "the device that the site names for training is not there", "correct limits.device in edge.toml"
    ),
    "worker.parallel": Code(
        WorkerError,
        "the processes of a worker cannot work together",
        "set limits.training_processes = 1 in edge.toml, or raise the limits",
    ),
    "worker.killed": Code(
        WorkerError, "the worker died or ran out of time or memory", "raise the limits or select less"
    ),
    # conflict
    "conflict.state": Code(ConflictError, "the state does not allow this now", "see `status`"),
    "conflict.exists": Code(ConflictError, "it exists already", "choose another name or remove it"),
    "conflict.repeated": Code(
        ConflictError,
        "this Idempotency-Key came with another request, or the first one is under way",
        "give each request a key of its own; ask again later for one that is under way",
    ),
    "conflict.round": Code(
        ConflictError,
        "another attempt of this round was answered before",
        "a round is unmasked once; the next round goes on from the last model",
    ),
    "conflict.stopped": Code(
        ConflictError, "the run was stopped before a round was finished", "nothing is published; submit the study anew"
    ),
    "conflict.running": Code(ConflictError, "another process holds this state folder", "stop it first"),
}


def from_code(code: str, message: str = "") -> CorsiaError:
    """Build the error that `code` names, as it came over the wire; an unknown code is a malformed message."""
    entry = CODES.get(code)
    if entry is None:
        return InputError("input.message", f"unknown error code from the peer: {code[:64]!r}")
    return entry.error(code, message)
