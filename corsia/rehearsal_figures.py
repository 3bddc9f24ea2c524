"""What a rehearsal says of larger consortia: straight lines through what was measured, and pictures of both.

The coefficients are of this machine, and of these hospitals: an extrapolation says which resource ends first and by
about how much, not what another machine will do. Memory and idle CPU of the centre are lines over the number of
connected sites, each measured while they came; work is CPU seconds of the centre for each parcel, and for each site
in a round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Coefficients", "Line", "draw", "extrapolate", "line"]


@dataclass(frozen=True, slots=True)
class Line:
    """`base + slope * sites`, by least squares; `spread` is the largest distance of a measured point from it."""

    base: float
    slope: float
    spread: float

    def at(self, sites: float) -> float:
        """The line's value, never negative."""
        return max(0.0, self.base + self.slope * sites)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What was measured.

    Attributes:
        memory_mb: of all processes of the centre, over connected sites.
        parcel_cpu_s: of the centre for a parcel, from its landing to the lake or into a round.
        parcel_bytes: on the wire, the mean.
        parcels_a_site: of all four lanes together, each round's updates included.
        beat_cpu_s: of the centre for a heartbeat, with all else that it does at rest.
        agent_mb: of a site's daemon at rest.
    """

    memory_mb: Line
    parcel_cpu_s: float
    parcel_bytes: float
    parcels_a_site: float
    beat_cpu_s: float
    agent_mb: float

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints them."""
        return asdict(self)


def line(points: Sequence[tuple[float, float]]) -> Line:
    """The straight line through points (sites, value); one point alone has no slope."""
    x, y = np.array(points, dtype=float).T
    if len(set(x)) < 2:
        return Line(float(y.mean()), 0.0, float(np.ptp(y)))
    slope, base = np.polyfit(x, y, 1)
    return Line(float(base), float(slope), float(np.abs(base + slope * x - y).max()))


def extrapolate(known: Coefficients, sites: int, *, heartbeat_s: float = 10.0) -> dict[str, Any]:
    """What the centre would need for so many sites.

    Args:
        heartbeat_s: pause between two heartbeats of a site.

    Returns:
        memory at rest, the share of one core that heartbeats take, and CPU seconds and bytes of all four lanes once
        through: so many seconds they take at least where one core does all of it.
    """
    parcels = known.parcels_a_site * sites
    return {
        "sites": sites,
        "centre_memory_mb": round(known.memory_mb.at(sites), 1),
        "heartbeat_cores": round(known.beat_cpu_s * sites / heartbeat_s, 4),
        "parcels": round(parcels),
        "parcels_cpu_s": round(parcels * known.parcel_cpu_s, 1),
        "parcels_gb": round(parcels * known.parcel_bytes / 1e9, 3),
    }


def draw(
    told: Mapping[str, Any], samples: Sequence[Mapping[str, float]], landed_s: Sequence[float], folder: Path
) -> list[str]:
    """Write throughput, memory, recovery and extrapolation as PNG; returns the files' names.

    Args:
        told: the rehearsal's own object.
        samples: `seconds`, `centre_mb` over time.
        landed_s: of each parcel, seconds since the beginning, in order.
    """
    from corsia.figures import blank

    folder.mkdir(parents=True, exist_ok=True)
    figure = blank(11, 7)
    ((throughput, memory), (recovery, larger)) = figure.subplots(2, 2)
    seconds = [sample["seconds"] for sample in samples]
    throughput.step(landed_s, range(1, len(landed_s) + 1), where="post")
    throughput.set(xlabel="seconds", ylabel="parcels landed", title="Throughput, outages marked")
    memory.plot(seconds, [sample["centre_mb"] for sample in samples])
    memory.set(xlabel="seconds", ylabel="MB", title="Memory of the centre", ylim=(0, None))
    for outage in told["outages"]:
        for axes in (throughput, memory):
            axes.axvline(outage["at_s"], linestyle=":", color="grey", linewidth=0.8)
    names = [f"{outage['what']} ({outage['how']})" for outage in told["outages"]]
    recovery.barh(names, [outage["recovered_s"] for outage in told["outages"]])
    recovery.set(xlabel="seconds until all was back", title="Recovery")
    grid = np.linspace(1, 1000, 50)
    fitted = Line(**told["coefficients"]["memory_mb"])
    larger.plot(grid, [fitted.at(n) for n in grid])
    rest = told["at_rest"]
    larger.plot([one["sites"] for one in rest], [one["centre_mb"] for one in rest], ".", label="measured here")
    larger.set(xlabel="sites", ylabel="MB", title="Memory of the centre at rest, extrapolated", ylim=(0, None))
    more = told["extrapolation"]
    words = (
        f"{more['sites']} sites: {more['centre_memory_mb']:.0f} MB,\n{more['heartbeat_cores']} cores for heartbeats,\n"
        f"{more['parcels']} parcels of all lanes: {more['parcels_cpu_s']:.0f} CPU s"
    )
    larger.text(0.98, 0.05, words, transform=larger.transAxes, ha="right")
    larger.legend()
    path = folder / "rehearsal.png"
    figure.savefig(path, dpi=120)
    return [str(path)]
