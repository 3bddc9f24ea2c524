"""Watches that the centre's log only grows: judges what each heartbeat brings, and stops egress when it is a lie.

Place in the flow: `heartbeat` asks with the sizes this site has seen, the centre answers with its newest checkpoint and
a proof for each of them. A log that shrank, forked or was rewritten, a receipt whose checkpoint is not in it, or a log
that the pinned witnesses do not sign: code, journal, evidence, pause. Only sizes and hashes are seen here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edge.callerrors import NotOffered
from edge.config import Witnesses
from edge.logview import ALONE, NEWEST, WITNESSED, View
from edge.site import Site
from privacy.checkpoint import open_checkpoint
from privacy.inclusion import LogNews, Seen, verify_growth
from privacy.transparency import verify_consistency
from privacy.witness import WitnessKey, witnessed_by
from protocol.errors import IntegrityError
from protocol.landed import BEYOND

__all__ = ["Asked", "Watchman"]

_SILENT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a heartbeat asks of the log: for this view, and for witnessed states beyond this one if any are wanted."""

    view: View
    witnessed: int | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes to be linked."""
        return self.view.sizes


class Watchman:
    """One site's. For the heartbeat's thread."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def asked(self) -> Asked:
        """What to ask now."""
        site = self._site
        try:
            view = site.log_view.look()
        except IntegrityError as error:  # a command beside the daemon was shown another log
            site.brakes.distrust(error)
            view = View(None, ())
        if site.config.witnesses is None:
            return Asked(view, None)
        return Asked(view, self._witnessed()[0])

    def judge(self, asked: Asked, news: LogNews | None) -> None:
        """Verify the answer; what does not verify stops all egress, and nothing of it is kept.

        Raises:
            UnavailableError, AuthenticationError: a centre that said nothing of its log does not answer further now.
            StorageError: the state is not written.
        """
        site = self._site
        try:
            if news is None:
                self._judge_silence()
                return
            key, origin = site.identity.log_key, site.identity.trust.log_origin
            newest = verify_growth(news, asked.view.linked, asked.view.apart, key, origin)
            if newest is not None and site.config.witnesses is not None:
                self._judge_witnesses(news, newest, site.config.witnesses)
            elif site.config.witnesses is None and site.state.fact(ALONE):
                site.state.set_fact(ALONE, "")
            if newest != asked.view.linked or asked.view.apart:
                site.log_view.learn(asked.view, newest)
                if news.checkpoint:
                    site.state.set_fact(NEWEST, news.checkpoint)
        except IntegrityError as error:
            if site.log_view.look().linked != asked.view.linked:
                return  # the steward has decided meanwhile, or a model's proof came in between: the next answer counts
            texts = {} if news is None else {"checkpoint": news.checkpoint, "witnessed": news.witnessed}
            sizes = {"asked": list(asked.sizes), "size": news.size if news else 0}
            links = {str(size): [h.hex() for h in proof] for size, proof in (news.links if news else {}).items()}
            site.brakes.distrust(error, **texts, **sizes, links=links)

    def _judge_silence(self) -> None:
        """Only a centre of an earlier version may say nothing of its log: it does not know what has landed either.

        Its receipts are linked state by state. One that has told of its log before, or of whose log witnesses are
        pinned, is believed to have become an earlier version for no longer than witnesses may take, or a day.

        Raises:
            IntegrityError: `log.proof`.
        """
        site = self._site
        try:
            site.link.landed(BEYOND)
        except NotOffered:
            pass
        else:
            raise IntegrityError("log.proof", "the centre leaves its log out of its answer")
        site.log_view.link(site.link)
        rule, linked = site.config.witnesses, site.log_view.linked
        if linked is not None and (rule is not None or site.state.fact(NEWEST)):
            silent = IntegrityError("log.proof", "the centre has said nothing of its log for too long")
            self._judge_delay(0, linked, rule.within_s if rule is not None else _SILENT_S, silent)

    def _witnessed(self) -> tuple[int, dict[str, int]]:
        """Up to which size checkpoints with witnesses' lines were seen, and each witness's own (key in hex -> size)."""
        text = self._site.state.fact(WITNESSED)
        value: dict[str, Any] = json.loads(text) if text else {"seen": 0, "keys": {}}
        return int(value["seen"]), dict(value["keys"])

    def _judge_witnesses(self, news: LogNews, newest: Seen, rule: Witnesses) -> None:
        """Take the pinned witnesses' signatures on this very log; a quorum must follow it soon enough.

        A witness that signed a state vouches for every smaller one of the log that it extends: the quorum has come as
        far as the smallest of the so many largest states that different witnesses signed.

        Raises:
            IntegrityError: `log.witness`, `log.proof`.
        """
        site = self._site
        keys = [WitnessKey.from_vkey(key) for key in rule.keys]
        seen, sizes = self._witnessed()
        if news.witnessed:
            checkpoint = open_checkpoint(news.witnessed, site.identity.log_key, site.identity.trust.log_origin)
            proof = news.links.get(checkpoint.size, ())
            verify_consistency(checkpoint.size, newest.size, checkpoint.root, newest.root, proof)
            for key in witnessed_by(news.witnessed, keys):
                sizes[key.public.hex()] = max(checkpoint.size, sizes.get(key.public.hex(), 0))
            self._keep(checkpoint.size, sizes)
        pinned = sorted((sizes.get(public, 0) for public in {key.public.hex() for key in keys}), reverse=True)
        reached = pinned[rule.quorum - 1]
        if not news.witnessed and seen > reached:
            self._keep(reached, sizes)  # once more from there: witnesses sign what others have signed before
        if reached < newest.size:
            alone = IntegrityError("log.witness", "the log has grown for too long without the witnesses' signatures")
            self._judge_delay(reached, newest, rule.within_s, alone)
        elif site.state.fact(ALONE):
            site.state.set_fact(ALONE, "")

    def _keep(self, seen: int, sizes: dict[str, int]) -> None:
        self._site.state.set_fact(WITNESSED, json.dumps({"seen": seen, "keys": sizes}, sort_keys=True))

    def _judge_delay(self, reached: int, newest: Seen, within_s: float, late: IntegrityError) -> None:
        """Since when the log has been beyond what witnesses signed: `SIZE TIME`, for the size that they must reach."""
        site, now = self._site, self._site.now()
        size, _, since = (site.state.fact(ALONE) or "0 0").partition(" ")
        if int(size) <= reached or float(since) > now:  # they have come that far, or the clock went back: count anew
            site.state.set_fact(ALONE, f"{newest.size} {now:.0f}")
        elif now - float(since) > within_s:
            raise late
