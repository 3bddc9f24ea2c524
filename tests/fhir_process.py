"""A small FHIR R4 server as a process of its own: search with paging, Bulk Data export, a token, and its own moods.

    python -m tests.fhir_process FOLDER PORT [token=T] [fail-every=N] [cut-once] [unsorted]

It serves the `*.ndjson` files of FOLDER, read anew at each request. `fail-every=N` answers each Nth request with 503;
`cut-once` cuts the first export file it gives in half; `unsorted` pays no heed to `_sort`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
MOODS = dict(word.partition("=")[::2] for word in sys.argv[3:])
BASE = f"http://127.0.0.1:{PORT}/fhir"
app = FastAPI()
jobs: dict[str, dict[str, Any]] = {}
asked = {"requests": 0, "polls": 0, "cut": 0}


def resources(kind: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted(FOLDER.glob("*.ndjson")):
        for line in path.read_text().splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if one.get("resourceType") == kind or one.get("was") == kind:
                found.append({k: v for k, v in one.items() if k != "was"})
    return found


def updated(one: dict[str, Any]) -> str:
    return str(one.get("meta", {}).get("lastUpdated", ""))


@app.middleware("http")
async def guard(request: Request, call: Any) -> Response:
    asked["requests"] += 1
    every = int(MOODS.get("fail-every", "0"))
    if every and asked["requests"] % every == 0:
        return JSONResponse({}, 503)
    if "token" in MOODS and request.headers.get("authorization") != f"Bearer {MOODS['token']}":
        return JSONResponse({}, 401)
    return await call(request)  # type: ignore[no-any-return]


@app.get("/fhir/metadata")
def metadata() -> dict[str, str]:
    return {"resourceType": "CapabilityStatement"}


@app.get("/fhir/$export")
def export(request: Request) -> Response:
    name = str(len(jobs) + 1)
    since = request.query_params.get("_since", "")
    jobs[name] = {"types": request.query_params["_type"].split(","), "since": since, "polls": 0,
                  "time": datetime.now(UTC).isoformat()}  # fmt: skip
    return Response(status_code=202, headers={"Content-Location": f"{BASE}/jobs/{name}"})


@app.get("/fhir/jobs/{name}")
def job(name: str) -> Response:
    if name not in jobs:
        return JSONResponse({}, 404)
    jobs[name]["polls"] += 1
    if jobs[name]["polls"] < 2:
        return Response(status_code=202, headers={"Retry-After": "0"})
    kinds = [k for k in jobs[name]["types"] if selected(name, k)]
    output = [{"type": k, "url": f"{BASE}/files/{name}/{k}", "count": len(selected(name, k))} for k in kinds]
    gone = [{"type": "Bundle", "url": f"{BASE}/deleted/{name}"}] if (FOLDER / "deleted.txt").exists() else []
    manifest = {"transactionTime": jobs[name]["time"], "output": output, "deleted": gone, "error": []}
    return JSONResponse(manifest)


@app.delete("/fhir/jobs/{name}")
def forget(name: str) -> Response:
    return Response(status_code=202)


def selected(name: str, kind: str) -> list[dict[str, Any]]:
    since = jobs[name]["since"]
    return [one for one in resources(kind) if not since or updated(one) >= since]


@app.get("/fhir/files/{name}/{kind}")
def file(name: str, kind: str) -> Response:
    lines = [json.dumps(one) for one in selected(name, kind)]
    if "cut-once" in MOODS and not asked["cut"]:
        asked["cut"] = 1
        lines = lines[: len(lines) // 2]
    return Response("\n".join(lines), media_type="application/fhir+ndjson")


@app.get("/fhir/deleted/{name}")
def deleted(name: str) -> Response:
    entries = [{"request": {"method": "DELETE", "url": u}} for u in (FOLDER / "deleted.txt").read_text().split()]
    return Response(json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}))


@app.get("/fhir/{kind}")
def search(kind: str, request: Request) -> dict[str, Any]:
    query = request.query_params
    since = query.get("_lastUpdated", "").removeprefix("ge")
    found = [one for one in resources(kind) if updated(one) >= since]
    if query.get("_summary") == "count":
        return {"resourceType": "Bundle", "type": "searchset", "total": len(found)}
    if "unsorted" not in MOODS:
        found.sort(key=updated)
    count, offset = int(query.get("_count", "50")), int(query.get("_offset", "0"))
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": len(found), "link": []}
    bundle["entry"] = [
        {"fullUrl": f"{BASE}/{kind}/{one.get('id')}", "resource": one, "search": {"mode": "match"}}
        for one in found[offset : offset + count]
    ]
    if offset + count < len(found):
        rest = f"_lastUpdated=ge{since}&" if since else ""
        url = f"{BASE}/{kind}?{rest}_sort=_lastUpdated&_count={count}&_offset={offset + count}"
        bundle["link"].append({"relation": "next", "url": url.replace("+", "%2B")})
    return bundle


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
