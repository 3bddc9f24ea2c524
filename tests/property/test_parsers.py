"""Every parser of what others wrote: a value, or one of our errors; no other exception, no hang, no blow-up of memory.

Formats with many rules have modules of their own beside this one: parcels (`test_envelope.py`), the bodies of batches
(`test_payload.py`), Flower messages (`test_message.py`), the log (`test_transparency.py`), DICOM
(`test_deid_batch_fuzz.py`, `test_sources_fuzz.py`), FHIR (`test_documents_property.py`, `test_deid_fhir_property.py`),
genotypes and omics (`test_genomics_fuzz.py`), tables (`test_sources_fuzz.py`), the vault (`test_vault_contents.py`).
"""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings

from central.config import read_config
from central.decisions import Proposal
from central.frames import read_rows
from central.gateway import server, wire
from central.gateway.landing import Announced
from central.operators import Operators
from central.signer.authority import Authority
from central.signer.studies import _manifest
from corsia.cli import logsource
from corsia.cli.deid_table import read_spec
from edge import memory as cohort_memory
from edge import messages, reports
from edge.config import load as load_edge
from edge.entry import ParcelMeta
from edge.identity import _verified_leaf, _verified_trust
from edge.journal import Journal
from edge.ledger import Ledger
from edge.spool import Spool
from pipelines import SourceFile, infer, masking
from pipelines.features import omop_tables
from pipelines.features.ibsi.settings import Settings
from privacy.deid.pixelrules import read_rules
from privacy.disclosure.differencing import CohortMemory
from privacy.envelope import PublicKey, SecretKey, read_public
from privacy.inclusion import Seen
from privacy.secagg import Advert, Bundle, Release, Survivors
from privacy.secagg.messages import Letter, Word
from privacy.transparency import Checkpoint, Tree, open_checkpoint, sign_checkpoint, verify_log, verify_receipt
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.parcel import Receipt, canonical_json
from protocol.study import parse_study
from protocol.trust import JoinCode, Purpose, TrustBundle
from protocol.v1 import fleet_pb2 as pb
from tests.agentkit import site_config
from tests.fuzzkit import COUNT, Parser, inputs, judged, strains
from tests.gatewaykit import TRAINING, draft
from tests.uplinkkit import Authority as Issuer

HEX, ID = "ab" * 32, "cd" * 16
KEY = SecretKey.from_bytes(b"\x21" * 32)
CODE = JoinCode(site="site-a", ca=b"c" * 32, study_key=b"s" * 32, secret=b"x" * 24, enrolment="c:1", fleet="c:2")


LEAVES = (b"leaf0", Receipt.leaf(ID, HEX), b"leaf2")


def _checkpoint() -> tuple[str, Tree]:
    tree = Tree()
    for n in range(3):
        tree.append(LEAVES[n])
    made = Checkpoint(origin="corsia/c", size=3, root=tree.root(), time=1)
    return sign_checkpoint(made, KEY), tree


TEXT, TREE = _checkpoint()
_RECEIPT = {
    "parcel_id": ID, "digest": HEX, "index": 1, "proof": [node.hex() for node in TREE.inclusion(1)], "checkpoint": TEXT,
}  # fmt: skip
_ROUND = RoundInstruction(
    run="r", study_digest=HEX, site="site-a", round=1, phase=RoundPhase.TRAIN, attempt=0, message=HEX, message_size=9,
    deadline=2e9,
)  # fmt: skip
_MANIFEST = {
    "name": "m", "version": 1, "serial": 1, "run": ID, "features": ["a"], "log": {"index": 4},
    "learner": {"name": "survival", "version": "1", "settings": {}}, "weights": {"sha256": HEX, "size": 3},
}  # fmt: skip
_ANNOUNCED = {
    "site": "site-a", "parcel_id": ID, "study_digest": HEX, "assignment_id": "a", "content_type": "features",
    "size_bytes": 9, "digest": HEX,
}  # fmt: skip
_PROPOSAL = Proposal.new(
    operator="one", name="m", version=1, weights=HEX, alias="champion", rollback=False, replaces=0
)  # fmt: skip
_RULES = {
    "format": 1,
    "rules": [{"name": "x", "modality": ["US"], "manufacturer": ["A"], "sizes": {"64x64": [[0, 0, 9, 9]]}}],
}
_SPEC = {"k": 3, "columns": {"age": "quasi", "b": "value"}, "generalise": {"age": 5}}
_B64 = base64.b64encode(b"x" * 9).decode()
_ADVERT = {"site": "s", "identity": _B64, "ephemeral": _B64, "commitment": _B64, "signature": _B64}
_BUNDLE = {"site": "s", "sealed": {"t": _B64}, "digests": {"t": base64.b64encode(b"x" * 64).decode()},
           "signature": _B64}  # fmt: skip
_TRUST = TrustBundle(
    ca_pem=Issuer().pem.decode(), study_key=KEY.public.to_base64(), publication_key=KEY.public.to_base64(),
    log_key=KEY.public.to_base64(), log_origin="corsia/c",
)  # fmt: skip
_EXPORT = {
    "origin": "corsia/c", "log_key": KEY.public.to_base64(),
    "leaves": [base64.b64encode(leaf).decode() for leaf in LEAVES], "checkpoints": [TEXT], "receipts": [],
}  # fmt: skip
_FRAME = {"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2.5, None]]}}
_OPEN = pb.OpenRequest(
    parcel_id=ID, study_digest=HEX, assignment_id="a1", content_type="features", size_bytes=5, digest=HEX, data=b"12345"
)
_REPORT = pb.SiteReport(version="1", spool_parcels=1, ledger_head="ab", assignment_id="a", state=pb.STATE_DONE)
_REPORT.counts["rows"] = 3
_ASSIGNMENT = pb.Assignment(
    id="a", kind=pb.ASSIGNMENT_KIND_STUDY, study_digest=HEX, document=b"x", signature=b"y",
    blobs=[pb.Blob(name="m", digest=HEX, size_bytes=3, data=b"abc")],
)  # fmt: skip
_COMMIT = pb.CommitReply(parcel_id=ID, digest=HEX, index=1, proof=_RECEIPT["proof"], checkpoint=TEXT)


def _message(kind: Any, take: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """A request as the gateway's server takes it: parsed by its guard, then checked for form."""
    parse = server._parser(kind.FromString)
    return lambda raw: take(server._checked(parse(raw)))


_DECODE = DecodeError  # gRPC's own reader meets it, and ends the call
_NOW = datetime.now(UTC)
_TLS = ec.generate_private_key(ec.SECP256R1())


def _csr() -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site-a")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(_TLS, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


class _Folder:
    """One folder, in memory where there is one, for parsers of files."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))

    def file(self, name: str, raw: bytes, mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_bytes(raw)
        path.chmod(mode)
        return path


def _journal(folder: _Folder) -> bytes:
    journal = Journal(folder.path / "seed.jsonl")
    journal.append("study.received", study=HEX)
    journal.append("study.decided", study=HEX, rules={"k": "ok"}, count=3)
    return (folder.path / "seed.jsonl").read_bytes()


def _ledger(folder: _Folder) -> bytes:
    path = folder.path / "seed.db"
    ledger = Ledger(path)
    memory = canonical_json({"format": 1, "cohorts": {}, "marks": {}})
    for key in ("a", "b"):
        ledger.reserve(
            key, dataset="d", study="s", k=5, cohort=9, bytes=9, cost=None, persons=9, memory=lambda _: memory
        )
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    return path.read_bytes()


def _open_ledger(folder: _Folder) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> None:
        for name in ("l.db-wal", "l.db-shm"):
            (folder.path / name).unlink(missing_ok=True)
        ledger = Ledger(folder.file("l.db", raw))
        try:
            ledger.verify()
            ledger.spends()
            ledger.memory("d")
        finally:
            ledger.close()

    return parse


def _spooled(folder: _Folder) -> tuple[Callable[[bytes], Any], bytes]:
    root = folder.path / "spool"
    spool = Spool(root, 1 << 20)
    meta = ParcelMeta(parcel_id=ID, assignment_id="a", study_digest=HEX, content_type="features")
    spool.hold(meta, lambda target: (target.write(b"x"), HEX)[1])
    spool.release("a")
    (path,) = (root / "meta").glob("*.json")

    def parse(raw: bytes) -> None:
        path.write_bytes(raw)
        again = Spool(root, 1 << 20)
        for entry in again.pending():
            again.code(entry)
        again.verify()

    return parse, path.read_bytes()


def _operators(folder: _Folder) -> Callable[[bytes], Any]:
    made = Operators.__new__(Operators)
    made._path = folder.path / "operators.json"

    def parse(raw: bytes) -> Any:
        folder.file("operators.json", raw)
        return made._read()

    return parse


def _cohorts() -> bytes:
    return CohortMemory.new(bytes(range(32)), bytes(16)).released(bytes(range(32)), ["a", "b"]).to_bytes()


def _zip(**tables: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in tables.items():
            archive.writestr(f"{name}.csv", text)
    return target.getvalue()


def _table() -> dict[str, Parser]:
    folder = _Folder()
    site_config(folder.path / "site")
    edge_toml = next((folder.path / "site").glob("*.toml")).read_bytes()
    central_toml = b'name = "c"\nstate_dir = "state"\nplugins = "p"\n[gateway]\nport = 7443\nnames = ["localhost"]\n'
    parse_spool, spool_meta = _spooled(folder)
    authority, signer = Issuer(), Authority(folder.path / "signer", "c")
    csr = _csr()
    leaf = authority.site("site-a", _TLS.public_key())
    signature = KEY.sign(Purpose.TRUST, _TRUST.to_bytes())
    studies = (draft().encode(), draft(**TRAINING).encode())
    entry = next(iter(Spool(folder.path / "spool", 1 << 20).pending()))
    return {
        "study": Parser(parse_study, studies),
        "edge.toml": Parser(lambda raw: load_edge(folder.file("edge.toml", raw)), (edge_toml,)),
        "central.toml": Parser(
            lambda raw: read_config(raw.decode(), folder.path / "central.toml"), (central_toml,), (UnicodeDecodeError,)
        ),
        "radiomics settings": Parser(
            lambda raw: Settings.from_toml(raw.decode()),
            (b"bin_width = 25\nresample_mm = [1, 1, 1]\n",),
            (UnicodeDecodeError,),
        ),
        "table spec": Parser(lambda raw: read_spec(folder.file("spec.toml", raw)), (tomli_w.dumps(_SPEC).encode(),)),
        "device rules": Parser(lambda raw: read_rules(raw.decode("latin-1")), (json.dumps(_RULES).encode(),)),
        "join code": Parser(lambda raw: JoinCode.decode(raw.decode("latin-1")), (CODE.encode().encode(),)),
        "trust bundle": Parser(TrustBundle.from_bytes, (_TRUST.to_bytes(),)),
        "trust bundle, verified": Parser(
            lambda raw: _verified_trust(
                raw, KEY.sign(Purpose.TRUST, raw), b"c" * 32, bytes.fromhex(KEY.public.fingerprint)
            ),
            (_TRUST.to_bytes(),),
        ),
        "trust signature": Parser(
            lambda raw: _verified_trust(_TRUST.to_bytes(), raw, b"c" * 32, bytes.fromhex(KEY.public.fingerprint)),
            (signature,),
        ),
        "site certificate": Parser(lambda raw: _verified_leaf(raw, _TRUST, "site-a", b"", _NOW), (leaf,)),
        "certificate request": Parser(lambda raw: signer.certify_site(raw, "site-a", 7), (csr,)),
        "public key": Parser(PublicKey.from_bytes, (KEY.public.to_bytes(),)),
        "public key file": Parser(
            lambda raw: read_public(folder.file("k.pub", raw)),
            (f"corsia-public-1 {KEY.public.to_base64()}\n".encode(),),
        ),
        "journal": Parser(lambda raw: Journal(folder.file("j.jsonl", raw)).verify(), (_journal(folder),)),
        "ledger": Parser(_open_ledger(folder), (_ledger(folder),)),
        "cohort memory": Parser(CohortMemory.from_bytes, (_cohorts(),)),
        "memory of a dataset": Parser(
            cohort_memory._read,
            (
                canonical_json(
                    {"format": cohort_memory._FORMAT, "cohorts": json.loads(_cohorts()), "marks": {"a": "b"}}
                ),
            ),
        ),
        "spool entry": Parser(parse_spool, (spool_meta,)),
        "landing sidecar": Parser(
            lambda raw: Announced.from_json(raw.decode()),
            (json.dumps(_ANNOUNCED).encode(),),
            (ValueError, KeyError, TypeError, RecursionError),
        ),
        "checkpoint": Parser(
            lambda raw: open_checkpoint(raw.decode("utf-8", "replace"), KEY.public, "corsia/c"), (TEXT.encode(),)
        ),
        "log seen": Parser(lambda raw: Seen.from_text(raw.decode("utf-8", "replace")), (f"3 {HEX}".encode(),)),
        "log export": Parser(lambda raw: verify_log(logsource._parse(raw)), (json.dumps(_EXPORT).encode(),)),
        "receipt": Parser(
            lambda raw: verify_receipt(
                messages.receipt_of(pb.CommitReply.FromString(raw), entry), KEY.public, "corsia/c"
            ),
            (_COMMIT.SerializeToString(),),
            (_DECODE,),
        ),
        "round instruction": Parser(RoundInstruction.from_bytes, (_ROUND.to_bytes(),)),
        "manifest": Parser(infer.Manifest.from_bytes, (canonical_json({"manifest": _MANIFEST, "signature": _B64}),)),
        "manifest to be signed": Parser(
            lambda raw: _manifest(raw.decode("latin-1")), (json.dumps(_MANIFEST).encode(),)
        ),
        "proposal": Parser(Proposal.from_bytes, (_PROPOSAL.to_bytes(),)),
        "operators": Parser(
            _operators(folder),
            (json.dumps([{"name": "two", "access": HEX, "key": KEY.public.to_base64()}]).encode(),),
        ),
        "advert": Parser(Advert.from_bytes, (canonical_json(_ADVERT), canonical_json(_ADVERT | {"seed": _B64}))),
        "bundle": Parser(Bundle.from_bytes, (canonical_json(_BUNDLE),)),
        "letter": Parser(
            Letter.from_bytes,
            (canonical_json({"site": "s", **dict.fromkeys(("leaves", "sealed", "digest", "signature"), _B64)}),),
        ),
        "word": Parser(
            Word.from_bytes, (canonical_json({"about": "masked", "site": "s", "identity": _B64, "signature": _B64}),)
        ),
        "survivors": Parser(
            Survivors.from_bytes, (canonical_json({"site": "s", "survivors": ["s", "t"], "signature": _B64}),)
        ),
        "release": Parser(
            Release.from_bytes, (canonical_json({"site": "s", "self_masks": {"t": _B64}, "roots": {"u": _B64}}),)
        ),
        "parts of a masked message": Parser(masking.unpack, (masking.pack([b"one", b"", b"three" * 9]),)),
        "report of a lane": Parser(
            lambda raw: reports.words(raw) if reports.is_canonical(raw) else None,
            (canonical_json({"k": 3, "rows": [1, 2.5]}),),
        ),
        "rows as JSON": Parser(
            lambda raw: read_rows(raw, "application/json", ("a", "b")), (json.dumps(_FRAME).encode(),)
        ),
        "rows as CSV": Parser(lambda raw: read_rows(raw, "text/csv", ("a", "b")), (b"a,b\n1,2\n3,x\n",)),
        "OMOP archive": Parser(
            lambda raw: omop_tables.tables([SourceFile("1.zip", raw)]),
            (_zip(person="person_id,gender_concept_id,year_of_birth\n1,8507,1950\n", note="a\n1\n"),),
        ),
        **{
            f"gateway {kind.DESCRIPTOR.name}": Parser(_message(kind, take), (seed.SerializeToString(),))
            for kind, take, seed in (
                (
                    pb.EnrolRequest,
                    wire.enrolment,
                    pb.EnrolRequest(site="site-a", secret=b"s" * 24, csr_der=csr, identity_public=b"k", signature=b"s"),
                ),
                (pb.RenewRequest, wire.renewal, pb.RenewRequest(csr_der=csr, signature=b"s")),
                (pb.WatchRequest, lambda request: wire.version(request.version), pb.WatchRequest(version="1.2")),
                (pb.SiteReport, wire.site_report, _REPORT),
                (pb.OpenRequest, wire.announcement, _OPEN),
                (pb.Chunk, lambda chunk: (chunk.offset, bytes(chunk.data)), pb.Chunk(offset=3, data=b"abc")),
                (pb.CommitRequest, lambda request: wire.identifier(request.parcel_id), pb.CommitRequest(parcel_id=ID)),
                (pb.FetchRequest, wire.fetch, pb.FetchRequest(digest=HEX, offset=3)),
                (pb.ProveRequest, wire.proof, pb.ProveRequest(index=1, size=2, to=3)),
            )
        },
        "edge Assignment": Parser(
            lambda raw: messages.assignment_of(pb.Assignment.FromString(raw)),
            (_ASSIGNMENT.SerializeToString(),),
            (_DECODE,),
        ),
    }


TABLE = _table()


@pytest.mark.parametrize("name", TABLE)
def test_valid_inputs_are_read(name: str) -> None:
    if name not in ("trust bundle, verified", "trust signature", "site certificate", "report of a lane"):
        assert all(judged(TABLE[name], seed) for seed in TABLE[name].seeds)


@pytest.mark.parametrize("name", TABLE)
def test_what_strains_parsers(name: str) -> None:
    assert not all([judged(TABLE[name], raw) for raw in strains(TABLE[name])]) or name in (
        "report of a lane",
        "spool entry",
    )


@pytest.mark.parametrize("name", TABLE)
def test_any_input_is_read_or_refused(name: str) -> None:
    @settings(max_examples=COUNT, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(raw=inputs(TABLE[name]))
    def judge(raw: bytes) -> None:
        judged(TABLE[name], raw)

    judge()
