"""One radiomics tool over one stored image, in the environment that has it: `python FILE TOOL IMAGE.npz`.

Run as a script, so that it imports nothing of Corsia unless Corsia is the tool. Prints one JSON object.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_BY_DIRECTION = [
    "2d_average",
    "2d_slice_merge",
    "2.5d_direction_merge",
    "2.5d_volume_merge",
    "3d_average",
    "3d_volume_merge",
]
_AT_ONCE = ["2d", "2.5d", "3d"]


def mirp(stored: Any) -> dict[str, float]:
    """Every family: with mirp's own aggregations, then with all of IBSI's."""
    extract_features = import_module("mirp").extract_features
    logging.disable(logging.CRITICAL)
    given = {
        "image": stored["voxels"].astype(np.float32),
        "mask": stored["region"].astype(np.uint8),
        "image_modality": "ct",
        "base_discretisation_method": "fixed_bin_size",
        "base_discretisation_bin_width": float(stored["bin_width"]),
        "resegmentation_intensity_range": [-1000.0, 3000.0],
        "base_feature_families": "all",
    }
    every = {f"{family}_spatial_method": _BY_DIRECTION for family in ("glcm", "glrlm")}
    every |= {f"{family}_spatial_method": _AT_ONCE for family in ("glszm", "gldzm", "ngtdm", "ngldm")}
    out = {}
    for name, more in (("default_s", {}), ("full_s", every)):
        start = time.perf_counter()
        extract_features(**given, **more)
        out[name] = round(time.perf_counter() - start, 2)
    return out


def corsia(stored: Any) -> dict[str, float]:
    """The full set, for the memory that a process with nothing else in it needs."""
    from pipelines.features.radiomics import Settings, extract

    settings = Settings(bin_width=float(stored["bin_width"]), bin_origin="zero")
    extract(stored["voxels"], stored["region"], (1.0, 1.0, 1.0), settings)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the process that started this one
    return {"peak_rss_mb": round(int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024)}


if __name__ == "__main__":
    with np.load(sys.argv[2], allow_pickle=False) as archive:
        result = {"mirp": mirp, "corsia": corsia}[sys.argv[1]](dict(archive))
    sys.stdout.write(json.dumps(result) + "\n")
