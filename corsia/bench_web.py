"""How long the server takes for a page of the dashboard when the consortium is large: 51 sites, 200 studies.

The database is filled as signer, gateway, vault and federation would; each page is asked for through the whole
application (token, routes, views, template), without a socket, since that is what the server adds.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGES", "bench_web", "fill"]

PAGES = (
    "/", "/studies", "/studies?page=2&lane=train", "/studies/new", "/studies/study-007", "/training",
    "/training/study-003", "/training/compare?study=study-003&study=study-008", "/models", "/data", "/audit",
)  # fmt: skip
_LANES = ("harvest", "anonymize", "extract", "train", "infer")
_NETWORKS = ("paediatric", "oncology", "cardiology", "neuroscience")
_ROUNDS = 20


def bench_web(
    tell: Callable[[str], object] = lambda _line: None, *, sites: int = 51, studies: int = 200, times: int = 15
) -> dict[str, Any]:
    """Milliseconds a page, first time left out.

    Returns:
        `{"sites", "studies", "times", "pages": {path: {"median_ms", "max_ms", "cpu_ms", "bytes"}},
        "worst_median_ms", "worst_ms", "worst_cpu_ms"}`; `cpu_ms` is the median of this process's processor time, what
        an idle machine would take at most.
    """
    with tempfile.TemporaryDirectory(prefix="corsia-bench-web-") as folder:
        tell(f"filling a database: {sites} sites, {studies} studies")
        app, token = fill(Path(folder), sites, studies)
        pages = {}
        for path in PAGES:
            took, worked, size = asyncio.run(_ask(app, token, path, times))
            pages[path] = {
                "median_ms": round(1000 * statistics.median(took), 1), "max_ms": round(1000 * max(took), 1),
                "cpu_ms": round(1000 * statistics.median(worked), 1), "bytes": size,
            }  # fmt: skip
            tell(f"{path}: {pages[path]['median_ms']} ms, at most {pages[path]['max_ms']} ms")
    worst = max(page["median_ms"] for page in pages.values())
    return {
        "sites": sites,
        "studies": studies,
        "times": times,
        "pages": pages,
        "worst_median_ms": worst,
        "worst_ms": max(page["max_ms"] for page in pages.values()),
        "worst_cpu_ms": max(page["cpu_ms"] for page in pages.values()),
    }


async def _ask(app: Any, token: str, path: str, times: int) -> tuple[list[float], list[float], int]:
    import httpx

    took, worked, size = [], [], 0
    headers = {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as http:
        for turn in range(times + 1):
            begun, busy = time.perf_counter(), time.process_time()
            answer = await http.get(path)
            spent, busy = time.perf_counter() - begun, time.process_time() - busy
            answer.raise_for_status()
            size = len(answer.content)
            if turn:
                took.append(spent)
                worked.append(busy)
    return took, worked, size


def fill(root: Path, sites: int, studies: int) -> tuple[Any, str]:
    """A centre's state folder of that size; the application over it and an operator's token."""
    from central.config import CentralConfig
    from central.operators import Operators
    from central.store import Store
    from central.web import Centre, create_app
    from privacy.envelope import SecretKey

    config = CentralConfig(name="bench", state_dir=root)
    token = secrets.token_urlsafe(32)
    config.token_path.write_text(token)
    config.token_path.chmod(0o600)
    store = Store(root)
    key = SecretKey.generate().public.to_base64()
    names = [f"site-{number:02d}" for number in range(sites)]
    with store.begin() as session:
        session.add_all(_sites(names, key))
    for number in range(studies):
        with store.begin() as session:
            rows = _study(number, names, key)
            session.add(next(rows))  # what the others refer to
            session.flush()
            session.add_all(rows)
    with store.begin() as session:
        store.append_leaves(session, [json.dumps(
            {"id": secrets.token_hex(16), "kind": "parcel", "sha256": secrets.token_hex(32)}).encode()
            for _ in range(studies * sites)])  # fmt: skip
    centre = Centre(
        name="bench", store=store, operators=Operators(config), signer=root / "none", vault=root / "none",
        log_public=root / "none", log_origin="corsia/bench", stop=threading.Event(),
    )  # fmt: skip
    return create_app(centre), token


def _sites(names: list[str], key: str) -> Iterator[Any]:
    from central.store.models import CertificateRow, SiteRow

    now = time.time()
    for number, name in enumerate(names):
        yield SiteRow(
            name=name, network=_NETWORKS[number % len(_NETWORKS)], identity=key, enrolled_at=now, last_seen=now,
            version="0.1.0", spool_parcels=number, spool_bytes=number * 1000,
        )  # fmt: skip
        yield CertificateRow(serial=f"{number:x}", site=name, not_after=now + 5 * 86_400)


def _study(number: int, names: list[str], key: str) -> Iterator[Any]:
    from central.store.models import AssignmentRow, CuratedRow, ParcelRow, StudyRow
    from protocol.study import dump_study, study_digest

    lane, now, study_id = _LANES[number % len(_LANES)], time.time() - number * 3600, f"study-{number:03d}"
    document = dump_study(_draft(study_id, lane, names, key))
    digest = study_digest(document)
    yield StudyRow(
        id=study_id, digest=digest, lane=lane, title=f"Study {number} of lane {lane}", document=document,
        signature=b"", created_at=now, state="open" if number % 3 else "done",
    )  # fmt: skip
    for place, name in enumerate(names):
        yield AssignmentRow(
            id=f"{study_id}-{name}", site=name, kind="study", study_digest=digest, document=document, signature=b"",
            state=("done", "running", "pending", "refused")[place % 4], code="policy.lane" if place % 4 == 3 else "",
            created_at=now, updated_at=now,
        )  # fmt: skip
        parcel = secrets.token_hex(16)
        yield ParcelRow(
            id=parcel, site=name, study_digest=digest, assignment_id=f"{study_id}-{name}",
            content_type="update" if lane == "train" else "records", digest=secrets.token_hex(32), size_bytes=10_000,
            log_index=number * len(names) + place, state="opened", landed_at=now,
        )  # fmt: skip
        if lane in ("harvest", "anonymize", "extract"):
            yield CuratedRow(
                batch_id=secrets.token_hex(16), study_digest=digest, site=name, parcel_id=parcel, part=0, last=True,
                path="", rows=500, files=20, persons=500, withheld={"consent": 3}, report={}, created_at=now,
            )  # fmt: skip
    if lane == "train":
        yield from _run(study_id, digest, names, now)


def _run(study_id: str, digest: str, names: list[str], now: float) -> Iterator[Any]:
    from central.store.models import EventRow, ModelRow, RoundRow, RunRow

    run = secrets.token_hex(16)
    yield RunRow(id=run, study_digest=digest, round=_ROUNDS, phase="train", updated_at=now)
    for number in range(_ROUNDS + 1):
        at = now + 10 * number
        metrics = {"accuracy": 0.5 + number / 100, "loss": 1 / (number + 1), "rows": 1000}
        yield RoundRow(
            run=run, round=number, arrays="", metrics=metrics, sites=names, started_at=at, finished_at=at + 9
        )
        begun = {"round": number, "phase": "train", "attempt": 0, "asked": len(names)}
        yield EventRow(at=at, kind="round.begun", study=study_id, fields=begun)
        for place, name in enumerate(names):
            yield EventRow(at=at + place / 10, kind="round.answered", site=name, study=study_id, fields={})
    yield ModelRow(
        name=study_id, version=1, alias="candidate", serial=1, study_digest=digest, manifest="0" * 64, manifest_size=1,
        weights="0" * 64, weights_size=1, created_at=now,
    )  # fmt: skip


def _draft(study_id: str, lane: str, names: list[str], key: str) -> Any:
    from protocol.study import Study

    value: dict[str, Any] = {
        "schema": 1, "id": study_id, "title": "T", "lane": lane, "purpose": "research",
        "legal_basis": "scientific-research", "controller": "C", "ethics_reference": "E",
        "expires": "2099-01-01T00:00:00Z", "sites": names, "dataset": {"name": "d", "columns": ["a"]},
        "pipeline": {"name": lane}, "roster": dict.fromkeys(names, "0" * 64),
        "recipients": [{"role": "federation" if lane == "train" else "vault", "key": key}],
    }  # fmt: skip
    if lane == "train":
        value["training"] = {
            "learner": "tabular",
            "features": ["a"],
            "outcome": ["b"],
            "rounds": _ROUNDS,
            "publish": {"model": study_id},
        }
        value["privacy"] = {"dp": "central", "epsilon": 3.0, "delta": 1e-5}
        value["pipeline"]["parameters"] = {"private": {"bounds": {"a": [0, 1]}}}
    elif lane == "infer":
        value |= {"model": {"name": "study-003"}, "recipients": []}
    else:
        value["output"] = {"columns": [{"name": "a", "dtype": "float"}]}
    return Study.model_validate(value)
