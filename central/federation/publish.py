"""From the last checkpoint to a published model: weights, log leaf, signed manifest, MLflow, database.

Each step finds what an interrupted one left, so that a run makes exactly one version however often this is begun:
the log's leaf is looked for before it is appended, MLflow is asked for the run's tag, and the row comes last.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from central.federation.checkpoint import Checkpoint, join_arrays
from central.federation.columns import example_rows, input_kinds
from central.federation.control import Stopped, orders_of
from central.federation.plots import card_plots
from central.registry import Registry, Release, RoundMetrics
from central.store import Store
from central.store.models import AssignmentRow, LogRow, ModelRow, RoundRow, RunRow, StudyRow
from pipelines import learners
from pipelines.guarantee import guarantee, sentences
from pipelines.infer import log_leaf
from pipelines.registry import code_digest
from privacy.secagg import threshold_of
from privacy.secagg.session import MAX_COMPLETE
from protocol import faults
from protocol.assignment import AssignmentKind, RoundInstruction
from protocol.errors import IntegrityError, UnavailableError
from protocol.parcel import canonical_json
from protocol.study import Study, Training

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MASKED", "SEALED", "Publisher", "model_card"]

log = logging.getLogger(__name__)
SEALED = "false: updates are sealed but not masked"
MASKED = "true: the federation learned sums over sites; what one site's metrics were is withheld"
PROMOTION = "two operators promote it to `champion`, which makes a new signed manifest of the same weights."
VOIDS = (
    "- Weights, features or settings other than the signed manifest names: the manifest is what is vouched for, not "
    "this card, nor any tag or alias of MLflow.",
    "- A manifest that does not verify under the publication key, is not in the log, or is older than one accepted.",
    "- A hospital that trained on other rows than its study selects: no one else sees its rows.",
    "- Rows unlike those of the sites named above: their outcomes are not what the metrics were measured on.",
)
MOST_ROWS = 50  # of the table of rounds
Sign = Callable[[str, str], bytes]  # (study digest, manifest as canonical JSON) -> signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Publishes finished runs.

    Attributes:
        sign: asks the signer, which signs only what the study names.
    """

    store: Store
    registry: Registry
    sign: Sign

    def publish(self, study: Study, digest: str, run: str, reached: Checkpoint, *, tries: int = 3) -> int:
        """Publish a run's last checkpoint and close run and study; returns the version. Repeatable.

        Raises:
            UnavailableError: `unavailable.mlflow`, `unavailable.process`: to be tried again.
            CorsiaError: what the signer refuses.
            Stopped: the operator has discarded the run meanwhile; see `withdraw`.
        """
        if study.training is None:
            raise AssertionError("only a study of lane train is published")
        weights = join_arrays(reached.model, reached.preprocessing)
        name = study.training.publish.model
        version = self.registry.find(name, run) or self.registry.next_version(name)
        manifest = self._manifest(study, study.training, digest, run, reached, weights, version)
        manifest["log"] = {"index": self._logged(log_leaf(manifest)), "leaf": log_leaf(manifest)}
        try:
            signature = self.sign(digest, canonical_json(manifest).decode())
        except IntegrityError as error:
            if error.code != "model.rollback" or tries == 0:
                raise
            return self.publish(study, digest, run, reached, tries=tries - 1)  # a promotion took the serial
        document = canonical_json({"manifest": manifest, "signature": base64.b64encode(signature).decode()})
        table = learners.for_study(study).table(reached.model, reached.preprocessing)
        release = self._release(study, study.training, manifest, document, weights, table)
        published = self.registry.publish(release)
        if published != version:  # another writer took the number: begin again with the one that the run has now
            return self.publish(study, digest, run, reached)
        faults.point("federation.publish")
        self._close(study, study.training, run, manifest, document, weights)
        return version

    def withdraw(self, study: Study, run: str) -> None:
        """Take back what MLflow has of a discarded run, if MLflow answers: without a row of ours it is no model.

        An alias leads again to the version that it names here.
        """
        if study.training is None:
            raise AssertionError("only a study of lane train is published")
        name, alias = study.training.publish.model, study.training.publish.alias
        with self.store.read() as session:
            held = session.scalar(select(ModelRow.version).where(ModelRow.name == name, ModelRow.alias == alias))
        try:
            if self.registry.withdraw(name, run, study.id) and held is not None:
                self.registry.point(name, alias, held)
        except UnavailableError:
            return  # the registry has logged it; nobody waits for a discarded run

    def _manifest(
        self, study: Study, training: Training, digest: str, run: str, reached: Checkpoint, weights: bytes, version: int
    ) -> dict[str, Any]:
        with self.store.read() as session:
            newest = session.scalar(select(func.max(ModelRow.serial)).where(ModelRow.name == training.publish.model))
        learner = learners.for_study(study)
        promised = guarantee(study, self._asked(digest, reached))
        shown = {k: round(float(v), 6) for k, v in reached.metrics.items() if isinstance(v, int | float)}
        return {
            "name": training.publish.model,
            "version": version,
            "alias": training.publish.alias,
            "serial": (newest or 0) + 1,
            "study": digest,
            "study_id": study.id,
            "run": run,
            "sites": sorted(reached.examples),
            "rounds": reached.round,
            "rounds_run": reached.rounds_run or reached.round,
            "ended": reached.ended or "rounds",
            "strategy": training.strategy,
            "strategy_parameters": dict(training.strategy_parameters),
            "learner": {
                "name": learner.name,
                "version": learner.version,
                "digest": code_digest(),
                "settings": study.pipeline.parameters,
            },
            "features": list(training.features),
            "outcome": list(training.outcome),
            "metrics": shown,
            "epsilon": promised.get("epsilon"),
            "delta": promised.get("delta"),
            "privacy": promised,
            "masked": study.privacy.secure_aggregation,
            "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)},
        }

    def _asked(self, digest: str, reached: Checkpoint) -> int:
        """How many rounds sites were asked for: of one that was stopped, answers are out all the same."""
        last = (
            select(AssignmentRow.document)
            .where(AssignmentRow.study_digest == digest, AssignmentRow.kind == AssignmentKind.ROUND.value)
            .order_by(AssignmentRow.seq.desc())
            .limit(1)
        )
        with self.store.read() as session:
            document = session.scalar(last)
        return max(reached.round, RoundInstruction.from_bytes(document).round if document else 0)

    def _logged(self, leaf: dict[str, str]) -> int:
        """The leaf's index; appended only if it is not there."""
        raw = canonical_json(leaf)
        with self.store.begin() as session:
            known = session.scalar(select(LogRow.index).where(LogRow.leaf == raw).limit(1))
            return known if known is not None else self.store.append_leaf(session, leaf)

    def _release(
        self,
        study: Study,
        training: Training,
        manifest: dict[str, Any],
        document: bytes,
        weights: bytes,
        table: pd.DataFrame,
    ) -> Release:
        with self.store.read() as session:
            rows = session.scalars(
                select(RoundRow).where(RoundRow.run == manifest["run"], RoundRow.round > 0).order_by(RoundRow.round)
            ).all()
        rounds = tuple(
            RoundMetrics(round=r.round, metrics={k: v for k, v in r.metrics.items() if isinstance(v, int | float)})
            for r in rows
        )
        plots = card_plots(
            [(point.round, point.metrics) for point in rounds], [(r.round, r.sites) for r in rows], study.sites, table
        )
        kinds = input_kinds(training.features, table, study.pipeline.parameters.get("categorical") or {})
        lineage = {
            "study": study.id,
            "study_digest": manifest["study"],
            "sites": ",".join(manifest["sites"]),
            "rounds": str(manifest["rounds"]),
            "rounds_run": str(manifest["rounds_run"]),
            "ended": manifest["ended"],
            "strategy": manifest["strategy"],
            "epsilon": "none" if manifest["epsilon"] is None else f"{manifest['epsilon']} at {manifest['delta']}",
            "masked": MASKED if manifest["masked"] else SEALED,
            "code_digest": manifest["learner"]["digest"],
            "manifest_leaf": manifest["log"]["leaf"]["sha256"],
            "weights": manifest["weights"]["sha256"],
            "log_index": str(manifest["log"]["index"]),
            "serial": str(manifest["serial"]),
        }
        params = {
            "learner": training.learner, "strategy": training.strategy, "rounds": str(training.rounds),
            "local_steps": str(training.local_steps), "learning_rate": str(training.learning_rate),
            "seed": str(training.seed), "quorum": str(training.quorum), "features": ",".join(training.features),
            **{f"strategy.{k}": str(v) for k, v in training.strategy_parameters.items()},
        }  # fmt: skip
        return Release(
            run=manifest["run"],
            name=manifest["name"],
            alias=manifest["alias"],
            experiment=study.id,
            manifest=document,
            weights=weights,
            card=model_card(study, manifest, rounds, tuple(plots)),
            features=training.features,
            kinds=kinds,
            example=example_rows(training.features, table, kinds),
            outputs=learners.for_study(study).outputs,
            files={"table.csv": table.to_csv(index=False).encode(), **plots},
            params=params,
            tags={f"corsia.{k}": v for k, v in lineage.items()},
            rounds=rounds,
        )

    def _close(
        self, study: Study, training: Training, run: str, manifest: dict[str, Any], document: bytes, weights: bytes
    ) -> None:
        digest: str = manifest["study"]
        held = self.store.put_blob("manifest.json", document)
        model = self.store.put_blob("model.safetensors", weights)
        name, version = manifest["name"], manifest["version"]
        with self.store.begin() as session:
            if orders_of(session, digest, training).discard:
                raise Stopped
            for older in session.scalars(
                select(ModelRow).where(ModelRow.name == name, ModelRow.alias == manifest["alias"])
            ):
                older.alias = ""  # an alias names one version
            session.merge(
                ModelRow(
                    name=name,
                    version=version,
                    alias=manifest["alias"],
                    serial=manifest["serial"],
                    study_digest=digest,
                    manifest=held.digest,
                    manifest_size=held.size_bytes,
                    weights=model.digest,
                    weights_size=model.size_bytes,
                    uri=f"models:/{name}/{version}",
                    created_at=time.time(),
                )
            )
            row = session.get_one(RunRow, run)
            row.state, row.phase, row.code, row.updated_at = "done", "done", "", time.time()
            closing = session.get_one(StudyRow, study.id)
            closing.state = "done"
            self.store.emit(session, "model.published", study=study.id, model=name, version=version)
            self.store.emit(session, "study.done", study=study.id)
        log.info("model.published", extra={"fields": {"study": study.id, "model": name, "version": version}})


def _some(rounds: tuple[RoundMetrics, ...]) -> tuple[RoundMetrics, ...]:
    """At most about `MOST_ROWS` of the rounds, evenly, with the first and the last."""
    step = max(1, len(rounds) // MOST_ROWS)
    return tuple(point for at, point in enumerate(rounds) if at % step == 0 or at == len(rounds) - 1)


_ENDS = {
    "rounds": "as planned",
    "settled": "when further ones would have changed nothing",
    "early": "by early stopping",
    "stopped": "by the operator",
}


def _rounds(manifest: dict[str, Any]) -> str:
    best, run = manifest["rounds"], manifest["rounds_run"]
    which = "" if best == run else f", of which round {best} was the best and is this model"
    return f"{run} rounds, ended {_ENDS[manifest['ended']]}{which}"


def _on_masks(study: Study) -> str:
    if not study.privacy.secure_aggregation:
        return "- Updates are sealed but **not masked**: the federation process sees each site's update."
    roster = len(study.sites)
    part = "" if roster <= MAX_COMPLETE else "the larger part of "  # a lying centre may leave out some (ADR 14)
    return (
        f"- Updates, weights and metrics were **masked** by secure aggregation: the federation learned sums over {part}"
        f"at least {threshold_of(roster)} sites and who took part. Metrics of one site are withheld. This does not "
        f"hide what the sums themselves tell, nor a site from all the others together."
    )


def model_card(
    study: Study, manifest: dict[str, Any], rounds: tuple[RoundMetrics, ...], plots: tuple[str, ...] = ()
) -> str:
    """The model card, Markdown: what it is, from whom, how good, what is and is not guaranteed, and what voids that.

    Args:
        plots: pictures beside the card, by path.
    """
    learner = learners.for_study(study)
    names = sorted({name for point in rounds for name in point.metrics} - {"rows", "answers"})
    metrics = [
        " | ".join(["", str(p.round), *(f"{p.metrics.get(name, math.nan):.4f}" for name in names), ""]).strip()
        for p in _some(rounds)
    ]
    pictures = {name: f"![{name.partition('/')[2].partition('.')[0]}]({name})" for name in plots}
    planned = study.training.rounds if study.training else 0
    lines = [
        f"# {manifest['name']} version {manifest['version']}",
        "",
        f"{study.title}. Study `{study.id}` (`{manifest['study'][:16]}`), purpose: {study.purpose}; controller: "
        f"{study.controller}; ethics: {study.ethics_reference}.",
        "",
        "## How it was made",
        f"- Learner `{manifest['learner']['name']}` {manifest['learner']['version']}, strategy "
        f"`{manifest['strategy']}`, sites: {', '.join(manifest['sites'])}.",
        f"- {_rounds(manifest)}; {planned} planned.",
        f"- Features: {', '.join(manifest['features'])}. Outcome: {', '.join(manifest['outcome'])}.",
        *(f"- {note}" for note in learner.notes),
        f"- corsia {version_of('corsia')}, code digest `{manifest['learner']['digest'][:16]}`, log index "
        f"{manifest['log']['index']}.",
        f"- Published as `{manifest['alias']}`: {PROMOTION}",
        "",
        *(pictures[name] for name in plots if name.endswith(("sites.png", "weights.png"))),
        "",
        "## How good it is",
        learner.measured,
        "",
        " | ".join(["", "round", *names, ""]).strip(),
        "|---" * (len(names) + 1) + "|",
        *metrics,
        "",
        *(pictures[name] for name in plots if name.endswith("metrics.png")),
        "",
        "## What is and is not guaranteed",
        "- For this training no record left a hospital. "
        f"{learner.crossed} did, sealed to the federation of this study.",
        _on_masks(study),
        *sentences(manifest["privacy"]),
        "- Not a medical device; not validated for clinical use.",
        "",
        "## What voids it",
        *VOIDS,
        "",
    ]
    return "\n".join(lines)
