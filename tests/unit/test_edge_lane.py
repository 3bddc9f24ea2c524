"""The study's key at a site, and what a lane is told of the site."""

from __future__ import annotations

from pathlib import Path

from edge.lane import LaneRun, job_key
from edge.policy import decide
from pipelines.registry import INSTALLED
from privacy.deid.pseudonym import KeyRing
from privacy.envelope import read_key
from tests.agentkit import site_config, study


def test_the_key_of_a_study_is_one_idea(tmp_path: Path) -> None:
    """The command line's key ring and the daemon derive the same key, so their pseudonyms agree."""
    one, two = job_key(tmp_path, "a" * 64), job_key(tmp_path, "b" * 64)
    site = read_key(tmp_path / "pseudonym.key").to_bytes()
    ring = KeyRing(site).of_study("a" * 64)
    assert ring.find(KeyRing(one).current.key_id) is not None
    assert len({one, two, site}) == 3
    assert job_key(tmp_path, "a" * 64) == one


def test_the_stricter_numbers_reach_the_lane(tmp_path: Path) -> None:
    config = site_config(tmp_path, min_k=4, min_l=3, max_t=0.3, sensitive=["status"])
    dataset = config.datasets["cohort"].model_copy(update={"fhir_system": "urn:site"})
    config = config.model_copy(update={"datasets": {"cohort": dataset}})
    config.state_dir.mkdir(mode=0o700)
    asked = study(privacy={"k": 2, "l": 2, "t": 0.2, "sensitive": ["score"]})
    job = LaneRun.prepare(asked, "0" * 64, config, decide(asked, config, INSTALLED)).job
    told = job.study.privacy
    assert (told.k, told.l, told.t, told.sensitive) == (4, 3, 0.2, ("score", "status"))
    assert job.patient_system == "urn:site"
