"""A centre that drops, rewrites, forks or hides its log, over the real wire: found, egress stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select
from typer.main import get_command

from central.gateway.cosigned import take
from central.gateway.models import Models
from central.gateway.receipts import Log, open_log_key
from central.store import Store
from central.store.models import LogRow
from central.web.api import _export
from corsia.cli import app
from edge.agent import _dialler
from edge.callerrors import NotOffered
from edge.config import EdgeConfig, Witnesses
from edge.deliver import Delivery
from edge.heartbeat import Heartbeat
from edge.identity import enrol
from edge.logview import forget
from edge.site import Site, paused_for, set_paused
from edge.spool import ParcelMeta
from privacy.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, read_public, seal, write_key
from privacy.inclusion import LogNews
from privacy.witness import WitnessKey, WitnessSecret, check_quorum
from protocol.errors import IntegrityError, UnavailableError
from protocol.landed import LandedPage
from tests.agentkit import site_config
from tests.gatewaykit import Centre, first, running


@dataclass
class Hospital:
    """A site whose heartbeats and deliveries the test makes, one by one."""

    site: Site
    centre: Centre
    study: str
    assignment: str

    def __post_init__(self) -> None:
        self.beat = Heartbeat(self.site).beat
        self.delivery = Delivery.of(self.site, lambda _study: None)

    def deliver(self, count: int = 1) -> None:
        for at in range(count):
            meta = ParcelMeta(
                parcel_id=new_parcel_id(),
                assignment_id=self.assignment,
                study_digest=self.study,
                content_type="features",
            )
            info = ParcelInfo(parcel_id=meta.parcel_id, study=self.study, site="site-a", content_type="features")
            key, signer = self.centre.keys["lung"].public, self.site.identity.key
            self.site.spool.hold(
                meta,
                lambda t, i=info, k=key, s=signer: seal([b"x"], t, info=i, recipients=[k], signer=s),  # type: ignore[misc]
            )
            self.site.spool.release(self.assignment)
            assert self.delivery.run_once(self.site.link), at

    def events(self) -> list[str]:
        return [line.event for line in self.site.journal.tail(1000)]

    @property
    def linked(self) -> int:
        seen = self.site.log_view.linked
        return seen.size if seen else 0

    @property
    def log(self) -> Log:
        return self.centre.gateway._log

    @property
    def models(self) -> Models:
        """The service that proves single leaves."""
        return self.centre.gateway.models

    def show(self, log: object) -> None:
        """From now on heartbeats are answered from this log; parcels go on landing in the true one."""
        self.centre.gateway._assignments._log = log  # type: ignore[assignment]


def opened(config: EdgeConfig) -> Site:
    return Site(config, _dialler(config), threading.Event())


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    root = tmp_path_factory.mktemp("liar")
    with running(root / "centre") as centre:
        config = site_config(root / "site")
        enrol("site-a", config.state_dir, centre.ask("invite", site="site-a")["code"])
        study = centre.submit()
        site = opened(config)
        assignment = first(site.link)
        made = Hospital(site, centre, study, assignment.id)
        made.deliver(4)
        made.beat()
        yield made
        made.site.close()
        made.site.link.close()


def leaves(centre: Centre) -> list[bytes]:
    with centre.store.read() as session:
        return [row.leaf for row in session.scalars(select(LogRow).order_by(LogRow.index))]


def another(folder: Path, centre: Centre, made: list[bytes]) -> Log:
    """A whole second log under the same name and key: what a centre can do that has its own log key."""
    store = Store(folder)
    with store.begin() as session:
        for leaf in made:
            store.append_leaf(session, leaf)
    return Log(store, open_log_key(centre.config.state_dir / "gateway"), centre.config.log_origin)


class Liar:
    """Answers heartbeats as it likes."""

    def __init__(self, answer: Callable[[Sequence[int]], LogNews]) -> None:
        self._answer = answer

    def grown(self, sizes: Sequence[int], _witnessed: int | None) -> LogNews:
        return self._answer(sizes)


LIES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "rewritten leaf": lambda all_: [*all_[:1], b"other", *all_[2:]],
    "rewritten and grown": lambda all_: [*all_[:1], b"other", *all_[2:], b"new"],
    "dropped leaf": lambda all_: [*all_[:2], *all_[3:], b"new", b"newer"],
    "forked at the end": lambda all_: [*all_[:-1], b"other", b"new"],
    "shrunken": lambda all_: all_[:3],
    "emptied": lambda _all: [],
    "another log": lambda all_: [b"forged %d" % at for at in range(2 * len(all_))],
    "two leaves swapped": lambda all_: [*all_[:2], all_[3], all_[2], *all_[4:], b"new"],
}


def is_found(hospital: Hospital) -> None:
    """The lie is found, nothing of it kept, and nothing leaves; then the steward and an honest centre go on."""
    site, before = hospital.site, hospital.linked
    told = hospital.events().count("log.refused")
    hospital.beat()
    hospital.beat()  # told once
    assert site.brakes.halted()
    assert paused_for(site.config.state_dir) == "log.proof"
    assert hospital.events()[-2:] == ["log.refused", "egress.paused"]
    assert hospital.events().count("log.refused") == told + 1
    line = site.journal.tail(2)[0]
    evidence = json.loads((site.config.state_dir / "evidence" / f"log-{line.fields['error_id']}.json").read_text())
    assert evidence["linked"]["size"] == hospital.linked == before
    assert line.fields["code"] == "log.proof"
    hospital.show(hospital.log)
    set_paused(site.config.state_dir, False)
    hospital.beat()
    assert not site.brakes.halted()


@pytest.mark.parametrize("lie", LIES)
def test_a_log_that_is_not_the_one_this_site_knows(hospital: Hospital, tmp_path: Path, lie: str) -> None:
    hospital.beat()
    log = another(tmp_path, hospital.centre, LIES[lie](leaves(hospital.centre)))
    hospital.show(Liar(lambda sizes: replace(log.grown(sizes), checkpoint=log.grown([10**9]).checkpoint)))
    is_found(hospital)


def test_a_receipt_that_is_in_no_later_log(hospital: Hospital, tmp_path: Path) -> None:
    """The parcel lands and is receipted; the log that everybody is shown never had it."""
    hospital.beat()
    before = leaves(hospital.centre)
    hospital.deliver()
    hospital.show(another(tmp_path, hospital.centre, [*before, b"something else", b"more", b"and more"]))
    is_found(hospital)


def test_old_checkpoints_names_without_proof_and_clocks(hospital: Hospital) -> None:
    hospital.beat()
    old = hospital.log.grown([0])
    key, origin = open_log_key(hospital.centre.config.state_dir / "gateway"), hospital.centre.config.log_origin
    first = open_checkpoint(old.checkpoint, key.public, origin)
    hospital.deliver(2)
    now = hospital.log.grown([0])
    hospital.show(Liar(lambda _sizes: old))  # replayed, as it was signed
    is_found(hospital)
    back = sign_checkpoint(Checkpoint(origin=origin, size=first.size, root=first.root, time=2_000_000_000), key)
    hospital.deliver(2)
    hospital.show(Liar(lambda _sizes: LogNews(size=first.size, checkpoint=back)))  # replayed as if it were new
    is_found(hospital)
    hospital.deliver(2)
    hospital.show(Liar(lambda _sizes: LogNews(size=now.size + 9, checkpoint=now.checkpoint)))  # under another size
    is_found(hospital)
    hospital.deliver()
    hospital.show(Liar(lambda sizes: LogNews(size=max(sizes))))  # a size and nothing to show for it
    is_found(hospital)
    hospital.deliver()
    hospital.show(Liar(lambda _sizes: hospital.log.grown([0])))  # no proofs
    is_found(hospital)


def test_time_orders_nothing(hospital: Hospital) -> None:
    """A centre whose clock was put back is not accused as long as its log grows."""
    hospital.beat()
    key, origin = open_log_key(hospital.centre.config.state_dir / "gateway"), hospital.centre.config.log_origin

    def put_back(sizes: Sequence[int]) -> LogNews:
        true = hospital.log.grown(sizes)
        signed = open_checkpoint(true.checkpoint, key.public, origin)
        return replace(true, checkpoint=sign_checkpoint(replace(signed, time=7), key))

    before = hospital.linked
    hospital.deliver(2)
    hospital.show(Liar(put_back))
    hospital.beat()
    hospital.show(hospital.log)
    assert hospital.linked == before + 2
    assert not hospital.site.brakes.halted()


def test_all_receipts_are_linked_and_nothing_is_sent_at_rest(hospital: Hospital) -> None:
    hospital.deliver(3)
    view = hospital.site.log_view.look()
    assert len(view.apart) == 3  # each receipt's checkpoint, not only the last
    asked: list[tuple[Sequence[int], LogNews]] = []

    class Counter(Liar):
        def grown(self, sizes: Sequence[int], _witnessed: int | None) -> LogNews:
            asked.append((tuple(sizes), self._answer(sizes)))
            return asked[-1][1]

    hospital.show(Counter(lambda sizes: hospital.log.grown(sizes)))
    head = hospital.site.journal.head()
    for _ in range(3):
        hospital.beat()
    hospital.show(hospital.log)
    assert [len(sizes) for sizes, _ in asked] == [4, 1, 1]
    assert [news.checkpoint == "" for _, news in asked] == [False, True, True]
    assert [len(news.links) for _, news in asked] == [4, 0, 0]
    assert hospital.site.journal.head() == head
    assert hospital.site.log_view.look().apart == ()


def test_a_restart_links_what_a_crash_left_out(hospital: Hospital) -> None:
    """Killed between the receipt and `keep`: the journal has the receipt, and its checkpoint stands apart again."""
    hospital.beat()
    facts = {name: hospital.site.state.fact(name) for name in ("log_linked", "log_shown", "log_lines")}
    hospital.deliver(2)
    for name, value in facts.items():
        hospital.site.state.set_fact(name, value or "")
    config = hospital.site.config
    hospital.site.close()
    hospital.site.link.close()
    site = opened(config)
    assert len(site.log_view.look().apart) == 2
    hospital.site = site
    hospital.__post_init__()
    hospital.beat()
    assert site.log_view.look().apart == ()
    assert not site.brakes.halted()


def test_a_steward_who_decides_while_an_answer_is_under_way(hospital: Hospital, tmp_path: Path) -> None:
    """What was asked before the decision does not undo it."""
    hospital.beat()
    site, true = hospital.site, hospital.log
    forged = another(tmp_path, hospital.centre, [b"forged"] * 50)

    def answer(sizes: Sequence[int]) -> LogNews:
        forget(site.state, site.journal.count())
        return forged.grown(sizes)

    hospital.show(Liar(answer))
    hospital.beat()
    assert not site.brakes.halted()
    assert site.log_view.linked is None
    hospital.show(true)
    hospital.beat()
    assert hospital.linked == true.grown([0]).size


def not_offered(_start: int) -> LandedPage:
    """What the wire says of a call that the centre does not know."""
    raise NotOffered("input.message", "status UNIMPLEMENTED")


def test_a_centre_that_leaves_its_log_out_of_its_answer(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that knows of it must tell; one that says it does not know (any more) is believed for a day."""
    hospital.beat()
    site, now = hospital.site, [hospital.site.now()]
    monkeypatch.setattr(site, "now", lambda: now[0])
    hospital.show(Liar(lambda _sizes: None))  # type: ignore[arg-type, return-value]
    is_found(hospital)
    monkeypatch.setattr(site.link, "landed", not_offered)
    hospital.show(Liar(lambda _sizes: None))  # type: ignore[arg-type, return-value]
    for passed in (0, 86_000, 300):
        now[0] += passed
        hospital.beat()
        assert not site.brakes.halted()
    now[0] += 200
    is_found(hospital)
    assert site.state.fact("log_unwitnessed") == "", "it has told again"
    hospital.show(Liar(lambda _sizes: None))  # type: ignore[arg-type, return-value]
    hospital.beat()
    assert not site.brakes.halted()
    hospital.show(hospital.log)
    hospital.beat()


def test_versions_that_do_not_know_of_it(hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that names no sizes hears of no log; a centre that tells of none is asked to prove state by state."""
    site, link = hospital.site, hospital.site.link
    monkeypatch.setattr(link, "landed", not_offered)
    assert link.report(site.status()).log is None
    hospital.deliver(2)
    hospital.show(Liar(lambda _sizes: None))  # type: ignore[arg-type, return-value]
    hospital.beat()
    assert site.log_view.look().apart == ()
    before = leaves(hospital.centre)
    hospital.deliver()
    true = hospital.centre.gateway._log
    forged = another(tmp_path, hospital.centre, [*before, b"something else", b"more"])
    hospital.models._log = forged
    hospital.beat()
    assert paused_for(site.config.state_dir) == "log.proof"
    hospital.models._log = true
    hospital.show(true)
    set_paused(site.config.state_dir, False)
    hospital.beat()
    assert not site.brakes.halted()


def test_a_centre_that_takes_parcels_and_proves_none(hospital: Hospital) -> None:
    """Heartbeats that are never answered: after so many receipts nothing more is sent."""
    hospital.beat()
    view = hospital.site.log_view
    for size in range(10_000, 10_000 + 4096):
        view.note(Checkpoint(origin="", size=size, root=b"\x01" * 32, time=0))
    with pytest.raises(UnavailableError):
        hospital.deliver()
    for size in range(10_000, 10_000 + 4096):
        del view._apart[size]
    assert hospital.delivery.run_once(hospital.site.link)


def test_witnesses_of_the_log(hospital: Hospital, tmp_path: Path) -> None:
    """A quorum of pinned witnesses must follow the log; their signatures reach the site by the centre's heartbeats."""
    hospital.beat()
    site, centre = hospital.site, hospital.centre
    anna, bruno, carla = (WitnessSecret(f"witness.example/{n}", bytes([n]) * 32) for n in range(3))
    keys = [one.public.vkey for one in (anna, bruno, carla)]
    plain, now = site.config, [site.now()]
    site.config = plain.model_copy(update={"witnesses": Witnesses(keys=keys, quorum=2, within_s=60)})
    site.now = lambda: now[0]  # type: ignore[method-assign]
    log_key = open_log_key(centre.config.state_dir / "gateway").public

    def sign(*witnesses: WitnessSecret) -> int:
        text = hospital.log.grown([0]).checkpoint
        for one in witnesses:
            text = one.cosign(text, int(now[0]))
        size, _names = take(centre.store, text, log_key, centre.config.log_origin)
        hospital.log._cosigned._looked = -1e9  # do not wait until the gateway looks again
        return size

    def later(seconds: float) -> None:
        now[0] += seconds
        hospital.beat()

    later(0)
    later(59)
    assert not site.brakes.halted()
    size = sign(anna, bruno)
    later(30)  # signed: the time begins anew with the next growth
    assert site.state.fact("log_unwitnessed") == ""
    later(10_000)
    assert not site.brakes.halted()
    hospital.deliver()
    later(0)
    later(50)
    assert sign(carla) == size + 1
    later(5)  # one of two: not enough, and not too late yet
    hospital.deliver()
    assert sign(anna) == size + 2  # at another size: it extends the one that carla signed
    later(4)
    assert not site.brakes.halted()
    later(58)  # both had come to size + 1 in time; the last parcel has two seconds more
    assert not site.brakes.halted()
    later(61)
    assert paused_for(site.config.state_dir) == "log.witness"
    assert sign(bruno) == size + 2  # beside anna, where the site has looked already: it looks again
    later(1)
    later(1)
    set_paused(site.config.state_dir, False)
    later(1)
    assert not site.brakes.halted()
    hospital.deliver()
    assert sign(bruno, carla) == size + 3
    later(1)
    later(10_000)
    assert not site.brakes.halted()
    forged = another(tmp_path, centre, [*leaves(centre)[:-1], b"other", b"new", b"newer"])
    text = forged.grown([0]).checkpoint
    for one in (anna, bruno):
        text = one.cosign(text, int(now[0]))  # two witnesses were shown another log than this site
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        take(centre.store, text, log_key, centre.config.log_origin)
    true = hospital.log
    hospital.show(Liar(lambda sizes: replace(true.grown(sizes), witnessed=text)))
    later(0)
    assert paused_for(site.config.state_dir) == "log.proof"
    hospital.show(true)
    set_paused(site.config.state_dir, False)
    site.config = plain
    hospital.beat()
    assert not site.brakes.halted()


def test_files_between_site_centre_and_witness(hospital: Hospital, tmp_path: Path) -> None:
    """By the commands alone: exchanged checkpoints, proved by the centre; a witness; its signature at the centre."""

    def corsia(*args: object) -> dict[str, Any]:
        done = CliRunner().invoke(get_command(app), [*map(str, args), "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout.splitlines()[-1]))

    state, centre = hospital.site.config.state_dir, hospital.centre
    config = state.parent / "edge.toml"
    hospital.beat()
    old, new, split = (tmp_path / name for name in ("old", "new", "split"))
    corsia("log", "checkpoint", "export", "--state", state, "--out", old)
    hospital.deliver(2)
    hospital.beat()
    size = corsia("log", "checkpoint", "export", "--state", state, "--out", new)["size"]
    assert size == hospital.linked
    assert corsia("log", "checkpoint", "compare", old, new, "--config", config)["undecided"] == 0
    fake = another(tmp_path / "fake", centre, [b"forged"] * 3)
    split.write_text(fake.grown([0]).checkpoint)
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        corsia("log", "checkpoint", "compare", old, split, "--config", config)
    public = centre.config.state_dir / "gateway" / "log.pub"
    head = {"origin": centre.config.log_origin, "log_key": read_public(public).to_base64()}
    log = tmp_path / "log.json"
    log.write_text("".join(_export(centre.store, head)))
    audit = corsia("log", "verify", "--state", state, "--file", log)
    assert (audit["journalled"], audit["linked"]) == (audit["receipts"], size)
    assert corsia("log", "verify", "--state", centre.config.state_dir)["parcels"] == audit["receipts"]
    key = tmp_path / "w"
    write_key(key, SecretKey.generate())
    who = ("log", "witness", "--key", key, "--name", "witness.example/w")
    signed = tmp_path / "signed"
    corsia(*who, "--state", tmp_path / "w.json", "--file", log, "--log-key", public, "--out", signed)
    taken = corsia("log", "checkpoint", "import", signed, "--config", centre.path)["checkpoints"]
    assert taken == [{"size": size, "witnesses": ["witness.example/w"]}]
    hospital.log._cosigned._looked = -1e9
    told = hospital.log.grown([size], size - 1).witnessed
    check_quorum(told, [WitnessKey.from_vkey(corsia(*who, "--show-key")["key"])], 1)
