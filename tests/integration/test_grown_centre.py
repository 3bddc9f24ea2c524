"""A centre on PostgreSQL: the gateway's work on it, and what happens when the database goes away for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from central.config import MetricsConfig
from central.store.changes import Changes
from central.store.models import ParcelRow
from corsia.fleet import free_port
from privacy.envelope import read_public
from privacy.transparency import verify_receipt
from tests.gatewaykit import Centre, eventually
from tests.servicekit import Postgres, closing_connections, postgres_server
from tests.unit.test_metrics import asked, samples

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres_server() as made:
        yield made


def test_parcels_land_and_a_database_that_goes_and_comes_loses_none(server: Postgres, tmp_path: Path) -> None:
    server.put(tmp_path / "state")
    with closing_connections():
        centre, port = Centre(tmp_path), free_port()
        centre.config = centre.config.model_copy(update={"metrics": MetricsConfig(port=port)})
        centre.start()
        try:
            site = centre.enrol("site-a")
            centre.enrol("site-b").close()
            digest = centre.submit()
            assignment = site.first()  # told by the database's own notice
            assert assignment.study_digest == digest
            key = read_public(centre.config.state_dir / "gateway" / "log.pub")
            first = site.parcel(digest, centre.keys["lung"], b"x" * 300_000)
            receipt = site.deliver(first, assignment.id)
            assert verify_receipt(receipt, key, centre.config.log_origin).size > receipt.index
            told = samples(asked(port, "/metrics")[1])
            assert told["corsia_sites", (("state", "enrolled"),)] == 2.0
            assert sum(value for (name, _labels), value in told.items() if name == "corsia_parcels") == 1.0
            assert told["corsia_scrape_failures", ()] == 0.0
            second = site.parcel(digest, centre.keys["lung"], b"y" * 300_000)
            server.control("stop")
            with pytest.raises(grpc.RpcError):
                site.deliver(second, assignment.id)
            away = samples(asked(port, "/metrics")[1])
            assert away["corsia_scrape_failures", ()] >= 1.0
            assert ("corsia_sites", (("state", "enrolled"),)) not in away
            server.control("start")
            again = eventually(lambda: _delivered(site, second, assignment.id), 60)
            assert again.index == receipt.index + 1
            assert site.deliver(first, assignment.id).index == receipt.index
            assert not (centre.config.state_dir / "corsia.db").exists()
            with centre.store.read() as session:
                assert {row.id for row in session.query(ParcelRow)} == {first.id, second.id}
            site.close()
        finally:
            centre.close()


def _delivered(site, parcel, assignment: str):  # type: ignore[no-untyped-def]
    try:
        return site.deliver(parcel, assignment)
    except grpc.RpcError:
        return None


def test_a_poller_hears_of_commits_again_after_the_database_was_away(server: Postgres, tmp_path: Path) -> None:
    from central.store import Store

    server.put(tmp_path)
    with closing_connections():
        store = Store(tmp_path)
        changes = Changes(store.engine)
        assert changes.seen()
        assert not changes.seen()
        server.control("stop")
        assert changes.seen(), "what was missed is unknown"
        server.control("start")
        eventually(lambda: not changes.wait(0.2), 60)
        with store.begin() as session:
            store.emit(session, "site.invited", site="a")
        assert changes.wait(30)
        assert not changes.seen()
        changes.close()
