"""`corsia bench federation`: what a round costs besides the learning, beside peers, and at the size of a consortium.

Three sites of invented rows, real processes, mutual TLS, sealing, gate, ledger, spool, log. A round is training and
evaluation: two exchanges with every site (ten under masks). The load of the machine is told with the figures.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from corsia.bench_consortium import Consortium, percentile
from corsia.bench_federation_peers import flower, nvflare
from protocol.errors import InputError

__all__ = ["PARTS", "bench_federation", "secagg_speed"]

PARTS = ("round", "flower", "nvflare", "arrays", "secagg", "scale")
SITES, ROUNDS, PEER_ROUNDS = 3, 30, 3
SCALE_ROUNDS = 20
PARAMETERS, MASKED_SITES = 10_000_000, 16
BOUND, WEIGHT = 1e4, 1_000_000  # of an element and of a site, as where a study says nothing
_IDLE_S, _ARRAYS_S = 20.0, 1800.0
Tell = Callable[[str], object]
Figures = dict[str, Any]


def bench_federation(
    tell: Tell = lambda _line: None,
    *,
    peers: Path | None = None,
    rounds: int = ROUNDS,
    scale: int = 0,
    parameters: int = PARAMETERS,
    only: Collection[str] = (),
) -> Figures:
    """Every figure of the command.

    Args:
        tell: called with a line of progress, each part's figures among them.
        peers: folder with NVFLARE's environment; None leaves it out.
        rounds: warm rounds of each kind.
        scale: that many sites on this machine for 20 rounds; 0 leaves it out.
        parameters: float32 numbers of the model whose masked sum is timed.
        only: of `PARTS`, those to measure; all of them where empty.

    Raises:
        InputError: `input.usage` for a part that there is not.
    """
    if unknown := sorted(set(only) - set(PARTS)):
        raise InputError("input.usage", f"no such part: {unknown[0]}; there are {', '.join(PARTS)}")
    result: Figures = {"machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": _load()}}
    with TemporaryDirectory(prefix="corsia-bench-") as folder:
        root = Path(folder)
        parts: dict[str, Callable[[], Figures | None]] = {
            "round": lambda: _rounds(root / "three", rounds, tell),
            "flower": lambda: flower(root / "flower", sites=SITES, rounds=PEER_ROUNDS),
            "nvflare": lambda: nvflare(root / "nvflare", peers, sites=SITES),
            "arrays": lambda: _arrays(tell),
            "secagg": lambda: secagg_speed(parameters),
            "scale": lambda: _scale(root / "scale", scale, tell) if scale else None,
        }
        for name in PARTS:
            result[name] = parts[name]() if name in (only or PARTS) else None
            tell(f"{name}: {result[name]}")
    result["ratio"] = {name: _ratio(result[name], result["round"]) for name in ("flower", "nvflare")}
    return result


def _rounds(folder: Path, rounds: int, tell: Tell) -> Figures:
    with Consortium(folder, SITES, tell) as consortium:
        found: Figures = {"sites": SITES, "goal_s": 0.2}
        for name, masked in (("plain", False), ("secagg", True)):
            before, load = consortium.cpu_s(), _load()
            seconds = consortium.run(name, rounds=rounds + 1, masked=masked)
            used = {side: value - before[side] for side, value in consortium.cpu_s().items()}
            found[name] = _timed(seconds) | {
                "load": load,
                "cpu_s": {side: round(value / (rounds + 1), 3) for side, value in used.items()},
            }
        return found


def _scale(folder: Path, sites: int, tell: Tell) -> Figures:
    """Memory at rest and in a run, the centre's CPU at rest, and time per round."""
    with Consortium(folder, sites, tell) as consortium:
        idle = consortium.weights()
        before = consortium.cpu_s()["centre"]
        time.sleep(_IDLE_S)
        share = (consortium.cpu_s()["centre"] - before) / _IDLE_S
        tell(f"at rest: {idle.total:.0f} MB, the centre takes {share:.1%} of a core")
        seconds = consortium.run("scale", rounds=SCALE_ROUNDS, timeout_s=3600.0)
        busy = consortium.weights()
    return {
        "sites": sites,
        **_timed(seconds),
        "centre_share_of_core_at_rest": round(share, 4),
        "memory_mb": {
            "centre": busy.centre, "agent_at_rest": idle.agent, "agent": busy.agent, "worker": busy.worker,
            "total_at_rest": idle.total, "total": busy.total,
        },
    }  # fmt: skip


def secagg_speed(parameters: int = PARAMETERS, sites: int = MASKED_SITES) -> Figures:
    """All sites and the centre of one masked sum of float32 models in this process: seconds by step, and the error."""
    from privacy.envelope import SecretKey
    from privacy.secagg import Member, MemoryGuard, Quantizer, Session, Tally

    keys = {f"site-{i:02d}": SecretKey.generate() for i in range(sites)}
    roster = {site: key.public.fingerprint for site, key in keys.items()}
    session = Session(study="5" * 64, run="bench", round=1, attempt=0, roster=roster)
    members = {site: Member(session, site, key, MemoryGuard()) for site, key in keys.items()}
    tally, quantizer = Tally(session, parameters), Quantizer(bound=BOUND, max_weight=WEIGHT, sites=sites)
    exact = np.zeros(parameters)  # of what each site has, in float64: beside it stands what quantisation loses
    steps = {"start": time.perf_counter()}
    for member in members.values():
        tally.take_advert(member.advertise())
    adverts = tally.close_adverts()
    for advert in adverts:
        tally.take_bundle(members[advert.site].share(adverts))
    bundles = tally.close_bundles()
    steps["keys_s"] = time.perf_counter()
    inventing_s = 0.0
    for weight, bundle in enumerate(bundles, start=1):
        begun = time.perf_counter()
        update = _update(weight, parameters)
        exact += update.astype(np.float64) * weight
        inventing_s += time.perf_counter() - begun
        tally.take_masked(bundle.site, members[bundle.site].mask(bundles, quantizer.encode(update, weight)))
    steps["masking_s"] = time.perf_counter() - inventing_s
    survivors = tally.survivors()
    for site in survivors:
        tally.take_word(members[site].sign(survivors))
    for site in tally.words:
        tally.take_release(members[site].release(tally.words.values()))
    total = quantizer.decode(tally.total())
    steps["unmasking_s"] = time.perf_counter() - inventing_s
    times = list(steps.values())
    return {
        "parameters": parameters,
        "sites": sites,
        "goal_s": 20.0,
        "seconds": round(times[-1] - times[0], 2),
        **{name: round(end - times[i], 2) for i, (name, end) in enumerate(list(steps.items())[1:])},
        "relative_error": float(np.linalg.norm(total - exact) / np.linalg.norm(exact)),
        "largest_error": float(np.abs(total - exact).max()),
        "largest_error_allowed": quantizer.error,
        "load": _load(),
    }


def _update(site: int, parameters: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One site's own update: another one at each site, of numbers as trained weights are."""
    return np.random.default_rng([1, site]).normal(scale=0.05, size=parameters).astype(np.float32)


def _arrays(tell: Tell) -> Figures:
    """What `corsia/bench_arrays.py` measures, in a process of its own: memory is nobody else's there.

    A failure is told with the other figures instead of ending them.
    """
    command = [sys.executable, "-m", "corsia.bench_arrays"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ARRAYS_S)
    for line in done.stderr.splitlines():
        tell(line)
    if done.returncode != 0:
        return {"reason": f"the benchmark ended with status {done.returncode}"}
    made: Figures = json.loads(done.stdout.splitlines()[-1])
    return made


def _timed(seconds: list[float]) -> Figures:
    return {
        "rounds": len(seconds),
        "median_s": round(median(seconds), 3),
        "p90_s": round(percentile(seconds, 0.9), 3),
        "least_s": round(min(seconds), 3),
    }


def _ratio(theirs: Figures | None, ours: Figures | None) -> float | None:
    """How many times as long a peer's round takes; None where either was not measured."""
    if theirs is None or ours is None or theirs["round_s"] is None:
        return None
    return float(round(theirs["round_s"] / ours["plain"]["median_s"], 1))


def _load() -> float:
    return round(os.getloadavg()[0], 2)
