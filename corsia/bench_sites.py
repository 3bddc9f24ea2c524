"""Sites for the benchmark of aggregation: they answer a federation process through its database and landing zone.

Preparation and scores are real sums over invented rows; in training each site answers with the received model, moved
by a little, since what is measured is not training. Updates are sealed and signed as at an edge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select

from central.federation.keys import RunKeys
from central.store import Store
from central.store.models import AssignmentRow, ParcelRow, SiteRow, StudyRow
from pipelines.flower import (
    ARRAYS,
    EXAMPLES,
    METRICS,
    RecordDict,
    array_record,
    message_from_bytes,
    message_to_bytes,
    metric_record,
    reply,
    views_of,
)
from pipelines.train import client_app, load
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import UnavailableError
from protocol.parcel import Batch, ContentType, Item, ItemKind, Receipt, pack_batch
from protocol.study import Study, dump_study, study_digest

__all__ = ["Sites", "invented", "study_of"]

_ROWS = 40


class Sites:
    """Invented sites and the state folder of the centre that they belong to.

    Args:
        root: the centre's state folder, empty.
        count: how many sites.
        hidden: layers of the model.
        training: of the study, beyond the defaults.
    """

    def __init__(self, root: Path, count: int, hidden: tuple[int, ...], training: Mapping[str, Any]) -> None:
        self._root, self._store = root, Store(root)
        (root / "landing").mkdir()
        names = [f"site-{place:02d}" for place in range(count)]
        self._keys = {name: SecretKey.generate() for name in names}
        study = study_of(names, hidden, training)
        self._recipient: PublicKey = RunKeys(root / "keys").public(study.id)
        raw = study.model_dump(by_alias=True, exclude_none=True)
        raw["recipients"] = [{"role": "federation", "key": self._recipient.to_base64()}]
        raw["roster"] = {name: key.public.fingerprint for name, key in self._keys.items()}
        self._study = Study.model_validate(raw)
        document = dump_study(self._study)
        self._digest = study_digest(document)
        self._data = {name: load(self._study, name, invented(name)) for name in names}
        now = time.time()
        with self._store.begin() as session:
            session.add(
                StudyRow(
                    id=study.id, digest=self._digest, lane="train", title=study.title, document=document,
                    signature=b"", created_at=now,
                )
            )  # fmt: skip
            for name, key in self._keys.items():
                session.add(SiteRow(name=name, identity=key.public.to_base64(), enrolled_at=now))

    def serve(self, asked: Callable[[], bool], until: float) -> None:
        """Answer every instruction while `asked`.

        Raises:
            UnavailableError: `unavailable.process` after `until` (monotonic seconds).
        """
        done: set[str] = set()
        while asked():
            if time.monotonic() > until:
                raise UnavailableError("unavailable.process", "the benchmark takes too long")
            with self._store.read() as session:
                rows = session.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")).all()
            for row in rows:
                if row.id not in done:
                    done.add(row.id)
                    self._deliver(row.site, row.id, self._answer(row.site, RoundInstruction.from_bytes(row.document)))
            time.sleep(0.01)

    def _answer(self, site: str, instruction: RoundInstruction) -> bytes:
        from pipelines.flower import Context

        asked = message_from_bytes(self._store.get_blob(instruction.message))
        data = self._data[site]
        if instruction.phase is not RoundPhase.TRAIN:
            return message_to_bytes(client_app(lambda _context: data)(asked, Context(1, 1, {}, RecordDict(), {})))
        moved = 1.0 + 0.001 * sorted(self._keys).index(site)
        made = {name: value * np.float32(moved) for name, value in views_of(asked.content[ARRAYS]).items()}
        metrics = metric_record({EXAMPLES: data.rows.count})
        return message_to_bytes(reply(asked, RecordDict({ARRAYS: array_record(made), METRICS: metrics})))

    def _deliver(self, site: str, assignment: str, answer: bytes) -> None:
        """Seal, land and register, as edge and gateway do."""
        batch = Batch(
            batch_id=assignment, study_digest=self._digest, site=site, part=0, last=True,
            items=(Item(kind=ItemKind.MESSAGE, name="message.bin", data=answer, rows=1),),
        )  # fmt: skip
        parcel = new_parcel_id()
        info = ParcelInfo(parcel_id=parcel, study=self._digest, site=site, content_type=ContentType.UPDATE.value)
        path = self._root / "landing" / f"{parcel}.parcel"
        with path.open("wb") as target:
            digest = seal(pack_batch(batch), target, info=info, recipients=[self._recipient], signer=self._keys[site])
        with self._store.begin() as session:
            index = self._store.append_leaf(session, Receipt.leaf(parcel, digest))
            session.add(
                ParcelRow(
                    id=parcel, site=site, study_digest=self._digest, assignment_id=assignment,
                    content_type=ContentType.UPDATE.value, digest=digest, size_bytes=path.stat().st_size,
                    log_index=index, landed_at=time.time(),
                )
            )  # fmt: skip


def invented(site: str) -> pd.DataFrame:
    """The rows of an invented site: two features and a binary outcome."""
    draw = np.random.default_rng([11, *site.encode()])
    x = draw.normal(size=(_ROWS, 2))
    return pd.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "y": (x[:, 0] + draw.normal(size=_ROWS) > 0).astype(int)})


def study_of(sites: list[str], hidden: tuple[int, ...], training: Mapping[str, Any]) -> Study:
    """A study whose model has these hidden layers."""
    return Study.model_validate(
        {
            "schema": 1,
            "id": "bench-arrays",
            "title": "Arrays",
            "lane": "train",
            "purpose": "research",
            "legal_basis": "scientific-research",
            "controller": "Corsia benchmark",
            "ethics_reference": "none: invented data",
            "expires": datetime(2100, 1, 1, tzinfo=UTC),
            "sites": sites,
            "dataset": {"name": "rows", "columns": ["x0", "x1", "y"]},
            "pipeline": {"name": "train", "parameters": {"task": "binary", "hidden": list(hidden)}},
            "privacy": {"k": 1},
            "training": {
                "learner": "tabular",
                "features": ["x0", "x1"],
                "outcome": ["y"],
                "rounds": 2,
                "max_norm": 1e6,
                "publish": {"model": "bench-arrays"},
                **training,
            },
        }
    )
