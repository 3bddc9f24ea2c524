"""A centre's state folder with real keys, studies and sealed parcels, for tests of the vault and the web process."""

from __future__ import annotations

import hashlib
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from central.store import Store
from central.store.models import AssignmentRow, ParcelRow, SiteRow, StudyRow
from central.vault import Lake, Opener, StudyKeys
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal
from protocol.parcel import Batch, Item, ItemKind, Receipt, pack_batch
from protocol.study import Recipient, Study, dump_study, study_digest
from protocol.trust import Purpose

COLUMNS: tuple[dict[str, str], ...] = (
    {"name": "age", "dtype": "float"},
    {"name": "count", "dtype": "int"},
    {"name": "sex", "dtype": "string"},
    {"name": "seen", "dtype": "date"},
    {"name": "alive", "dtype": "bool"},
    {"name": "original_*", "dtype": "float"},
)
CONTENT = {"harvest": "records", "anonymize": "deidentified", "extract": "features"}


def parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    return sink.getvalue()


def rows(n: int = 6, start: int = 50) -> pd.DataFrame:
    return pd.DataFrame({"age": [float(start + i) for i in range(n)], "sex": ["F", "M"] * (n // 2) + ["F"] * (n % 2)})


def table(frame: pd.DataFrame | None = None, name: str = "records.parquet") -> Item:
    frame = rows() if frame is None else frame
    return Item(kind=ItemKind.TABLE, name=name, data=parquet(frame), rows=len(frame), persons=len(frame))


def draft(study_id: str = "trial", **changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema": 1,
        "id": study_id,
        "title": "A trial",
        "lane": "harvest",
        "purpose": "research",
        "legal_basis": "consent",
        "controller": "Consortium",
        "ethics_reference": "CE-1",
        "expires": "2099-01-01T00:00:00Z",
        "sites": ["site-a", "site-b"],
        "dataset": {"name": "lung", "columns": ["age", "sex"]},
        "pipeline": {"name": "harvest"},
        "output": {"columns": list(COLUMNS)},
    }
    return value | changes


@dataclass
class World:
    """One centre's state folder; `opener()` is a vault on it."""

    root: Path
    signing: SecretKey = field(default_factory=SecretKey.generate)
    sites: dict[str, SecretKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.root)
        self.keys = StudyKeys(self.root / "vault" / "keys")
        self.lake = Lake.of(self.root / "vault")
        self.landing = self.root / "landing"
        self.landing.mkdir(exist_ok=True)

    def opener(self) -> Opener:
        return Opener(
            self.store,
            landing=self.landing,
            state=self.root / "vault",
            keys=self.keys,
            lake=self.lake,
            study_key=lambda: self.signing.public,
        )

    def drain(self) -> None:
        opener = self.opener()
        while opener.step():
            pass

    def enrol(self, *names: str) -> None:
        with self.store.begin() as session:
            for name in names:
                self.sites[name] = SecretKey.generate()
                session.add(
                    SiteRow(
                        name=name,
                        network="oncology",
                        identity=self.sites[name].public.to_base64(),
                        enrolled_at=time.time(),
                        last_seen=time.time(),
                        version="0.1.0",
                    )
                )

    def submit(self, study_id: str = "trial", **changes: Any) -> Study:
        value = draft(study_id, **changes)
        for name in value["sites"]:
            if name not in self.sites:
                self.enrol(name)
        study = Study.model_validate(value)
        study = study.model_copy(
            update={
                "recipients": (Recipient(role="vault", key=self.keys.create(study.id)),),
                "roster": {name: self.sites[name].public.fingerprint for name in study.sites},
            }
        )
        document = dump_study(study)
        with self.store.begin() as session:
            session.add(
                StudyRow(
                    id=study.id,
                    digest=study_digest(document),
                    lane=study.lane.value,
                    title=study.title,
                    document=document,
                    signature=self.signing.sign(Purpose.STUDY, document),
                    created_at=time.time(),
                )
            )
            session.flush()
            for site in study.sites:
                session.add(
                    AssignmentRow(
                        id=f"{study.id}-{site}",
                        site=site,
                        kind="study",
                        study_digest=study_digest(document),
                        document=document,
                        signature=b"",
                        created_at=time.time(),
                        updated_at=time.time(),
                    )
                )
        return study

    def digest(self, study_id: str = "trial") -> str:
        with self.store.read() as session:
            return session.get_one(StudyRow, study_id).digest

    def batch(
        self,
        *items: Item,
        study_id: str = "trial",
        site: str = "site-a",
        part: int = 0,
        last: bool = True,
        **changes: Any,
    ) -> Batch:
        name = hashlib.sha256(f"{study_id}|{site}|{part}".encode()).hexdigest()[:32]
        values: dict[str, Any] = {
            "batch_id": name,
            "study_digest": self.digest(study_id),
            "site": site,
            "part": part,
            "last": last,
            "items": items or (table(),),
        }
        return Batch(**(values | changes))

    def land(self, batch: Batch | bytes, *, study_id: str = "trial", site: str = "site-a", **changes: Any) -> str:
        """Seal a batch as the site would and put it where the gateway puts it; returns the parcel id."""
        with self.store.read() as session:
            study = session.get_one(StudyRow, study_id)
        content_type = changes.get("content_type", CONTENT.get(study.lane, "records"))
        info = ParcelInfo(
            parcel_id=new_parcel_id(), study=study.digest, site=changes.get("as_site", site), content_type=content_type
        )
        recipient = changes.get("recipient") or self.keys.load(study_id).public
        path = self.landing / f"{info.parcel_id}.parcel"
        with open(path, "wb") as target:
            pieces = [batch] if isinstance(batch, bytes) else pack_batch(batch)
            digest = seal(
                pieces, target, info=info, recipients=[recipient], signer=changes.get("signer") or self.sites[site]
            )
        self.add_parcel(info, digest, path.stat().st_size, site=site)
        return info.parcel_id

    def add_parcel(self, info: ParcelInfo, digest: str, size: int, site: str) -> None:
        with self.store.begin() as session:
            index = self.store.append_leaf(session, Receipt.leaf(info.parcel_id, digest))
            session.add(
                ParcelRow(
                    id=info.parcel_id,
                    site=site,
                    study_digest=info.study,
                    assignment_id="a",
                    content_type=info.content_type,
                    digest=digest,
                    size_bytes=size,
                    log_index=index,
                    landed_at=time.time(),
                )
            )

    def finish(self, state: str = "done", *, study_id: str = "trial", **states: str) -> None:
        with self.store.begin() as session:
            for row in session.query(AssignmentRow).filter_by(study_digest=self.digest(study_id)):
                row.state = states.get(row.site.replace("-", "_"), state)

    def parcel(self, parcel_id: str) -> tuple[str, str]:
        with self.store.read() as session:
            row = session.get_one(ParcelRow, parcel_id)
            return row.state, row.code

    def state(self, study_id: str = "trial") -> str:
        with self.store.read() as session:
            return session.get_one(StudyRow, study_id).state

    def public(self) -> PublicKey:
        return self.signing.public


FEATURES = ("age", "count")


def publish(
    world: World, publication: SecretKey, *, serial: int = 1, study_id: str = "fed", alias: str = "champion"
) -> tuple[bytes, bytes]:
    """A survival model as the federation publishes one: signed manifest, weights, log entry, database row."""
    import base64
    import json

    import numpy as np
    from safetensors.numpy import save

    from central.store.models import ModelRow
    from pipelines import learners
    from pipelines.infer import log_leaf, sign_bytes

    settings: dict[str, Any] = {}
    learner = learners.named("survival", FEATURES, settings)
    times = pd.DataFrame({"age": np.linspace(40, 80, 60), "count": 1.0, "time": np.arange(1.0, 61), "status": 1.0})
    sums = learner.sums(learner.rows(times), 1)
    preprocessing = learner.agree(sums)
    model = learner.initial(sums, preprocessing)
    arrays = {f"model/{k}": v for k, v in model.items()} | {f"preprocessing/{k}": v for k, v in preprocessing.items()}
    weights = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    blob = world.store.put_blob("model.safetensors", weights)
    value: dict[str, Any] = {
        "name": "risk", "version": serial, "alias": alias, "serial": serial, "study": study_id,
        "run": f"{serial:032x}", "sites": ["site-a", "site-b"], "rounds": 2, "metrics": {"c-index": 0.6},
        "features": list(FEATURES), "learner": {"name": "survival", "settings": settings},
        "weights": {"sha256": blob.digest, "size": blob.size_bytes},
    }  # fmt: skip
    with world.store.begin() as session:
        value["log"] = {"index": world.store.append_leaf(session, log_leaf(value))}
    signature = publication.sign(Purpose.MANIFEST, sign_bytes(value))
    manifest = json.dumps({"manifest": value, "signature": base64.b64encode(signature).decode()}).encode()
    held = world.store.put_blob("manifest.json", manifest)
    with world.store.begin() as session:
        session.add(
            ModelRow(
                name="risk", version=serial, alias=alias, serial=serial, study_digest=world.digest(study_id),
                manifest=held.digest, manifest_size=held.size_bytes, weights=blob.digest, weights_size=blob.size_bytes,
                uri=f"models:/risk/{serial}", created_at=time.time(),
            )
        )  # fmt: skip
    return manifest, weights
