"""Watches that the centre's log only grows: judges what each heartbeat brings, and stops egress when it is a lie.

Place in the flow: `heartbeat` asks with the sizes this site has seen, the centre answers with its newest checkpoint and
a proof for each of them. A log that shrank, forked or was rewritten, a receipt whose checkpoint is not in it, or a log
that the pinned witnesses do not sign: code, journal, evidence, pause. Only sizes and hashes are seen here.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.logview import ALONE, NEWEST, WITNESSED, View
from edge.site import Site
from privacy.checkpoint import open_checkpoint
from privacy.inclusion import LogNews, Seen, verify_growth
from privacy.transparency import verify_consistency
from privacy.witness import WitnessKey, check_quorum
from protocol.errors import IntegrityError

__all__ = ["Asked", "Watchman"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a heartbeat asks of the log: the view it was asked for, and the largest witnessed state if any is wanted."""

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
            site.distrust(error)
            view = View(None, ())
        if site.config.witnesses is None:
            return Asked(view, None)
        witnessed = self._witnessed()
        return Asked(view, witnessed.size if witnessed else 0)

    def judge(self, asked: Asked, news: LogNews | None) -> None:
        """Verify the answer; what does not verify stops all egress, and nothing of it is kept.

        Raises:
            UnavailableError: a centre of an earlier version does not answer now.
            StorageError: the state is not written.
        """
        site = self._site
        try:
            if news is None:  # an earlier version: state by state
                site.log_view.link(site.link)
                return
            key, origin = site.identity.log_key, site.identity.trust.log_origin
            newest = verify_growth(news, asked.view.linked, asked.view.apart, key, origin)
            if newest is not None and site.config.witnesses is not None:
                self._judge_witnesses(news, newest)
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
            site.distrust(error, **texts, **sizes, links=links)

    def _witnessed(self) -> Seen | None:
        text = self._site.state.fact(WITNESSED)
        return Seen.from_text(text) if text else None

    def _judge_witnesses(self, news: LogNews, newest: Seen) -> None:
        """Ask for the pinned witnesses' signatures on this very log, and that they follow it soon enough.

        Raises:
            IntegrityError: `log.witness`, `log.proof`.
        """
        site, rule = self._site, self._site.config.witnesses
        if rule is None:
            return
        known = self._witnessed()
        if news.witnessed:
            checkpoint = open_checkpoint(news.witnessed, site.identity.log_key, site.identity.trust.log_origin)
            check_quorum(news.witnessed, [WitnessKey.from_vkey(key) for key in rule.keys], rule.quorum)
            proof = news.links.get(checkpoint.size, ())
            verify_consistency(checkpoint.size, newest.size, checkpoint.root, newest.root, proof)
            if known is None or checkpoint.size > known.size:
                known = Seen(size=checkpoint.size, root=checkpoint.root)
                site.state.set_fact(WITNESSED, known.to_text())
        if known is not None and known.size == newest.size:
            if site.state.fact(ALONE):
                site.state.set_fact(ALONE, "")
            return
        self._judge_delay(known, newest, rule.within_s)

    def _judge_delay(self, known: Seen | None, newest: Seen, within_s: float) -> None:
        """Since when the log has been beyond what witnesses signed: `SIZE TIME`, for the size that they must reach."""
        site, now = self._site, self._site.now()
        size, _, since = (site.state.fact(ALONE) or "0 0").partition(" ")
        reached = known.size if known else 0
        if int(size) <= reached or float(since) > now:  # they have come that far, or the clock went back: count anew
            site.state.set_fact(ALONE, f"{newest.size} {now:.0f}")
        elif now - float(since) > within_s:
            raise IntegrityError("log.witness", "the log has grown for too long without the witnesses' signatures")
