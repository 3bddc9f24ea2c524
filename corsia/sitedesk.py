"""What the site's page shows and does: paths to pages, forms to acts. No socket here (`corsia.siteweb`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corsia import steward
from corsia.cli.edge_status import site_status
from protocol.errors import CorsiaError, InputError, StudyRefused
from protocol.prose import prose
from protocol.study import parse_study
from protocol.words import LANGUAGES, words

if TYPE_CHECKING:
    from jinja2 import Environment

    from edge.config import EdgeConfig

__all__ = ["Answer", "Desk"]

_LINES = 50
_FIRST_ROWS = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """A page, or where to look instead."""

    status: int
    text: str
    kind: str = "text/html; charset=utf-8"
    location: str = ""


class Desk:
    """The pages of one site.

    Args:
        site: the site's configuration.
        mark: what a form must bring back.
    """

    def __init__(self, site: EdgeConfig, mark: str) -> None:
        self._site, self._mark = site, mark
        self._pages = _templates()
        self._looking = threading.Lock()  # one preview at a time: it runs a lane

    def get(self, path: str, query: Mapping[str, str], language: str) -> Answer:
        """A page by its path."""
        return self._answered(language, lambda: self._get(path, query, language))

    def post(self, path: str, form: Mapping[str, str], language: str) -> Answer:
        """An act by its path; then where to look."""
        return self._answered(language, lambda: self._post(path, form, language))

    def closed(self, status: int, why: str, language: str) -> Answer:
        """A page for who is not let in: it does not name the site."""
        return Answer(status, self._pages.get_template("closed.html").render(t=words(language), lang=language, why=why))

    def _answered(self, language: str, work: Callable[[], Answer]) -> Answer:
        try:
            return work()
        except StudyRefused as error:
            return self._refused(404, error, language)
        except CorsiaError as error:
            return self._refused(409, error, language)

    def _get(self, path: str, query: Mapping[str, str], language: str) -> Answer:
        name, _, rest = path.strip("/").partition("/")
        if name == "" and not rest:
            return self._page("home.html", language, status=site_status(self._site))
        if name == "study" and rest:
            return self._study(rest, language)
        if name == "journal" and not rest:
            return self._journal(query, language)
        raise StudyRefused("study.unknown", "there is no such page")

    def _post(self, path: str, form: Mapping[str, str], language: str) -> Answer:
        name, _, rest = path.strip("/").partition("/")
        if name == "pause":
            steward.pause(self._site)
        elif name == "resume":
            steward.resume(self._site)
        elif name == "preview" and rest:
            return self._preview(rest, language)
        elif name in ("approve", "refuse") and rest:
            steward.decide(self._site, rest, "approve" if name == "approve" else "refuse", digest=rest)
            return Answer(303, "", location=f"/study/{rest}")
        else:
            raise StudyRefused("study.unknown", "there is no such page")
        return Answer(303, "", location="/")

    def _study(self, digest: str, language: str) -> Answer:
        from edge import plugins
        from edge.policy import decide
        from pipelines import registry

        document, line = self._found(digest)
        study = parse_study(document)
        decision = decide(study, self._site, registry.INSTALLED, plugins.installed(self._site, study))
        return self._page(
            "study.html", language, study=study, digest=digest, line=line, said=prose(study, words(language)),
            rules=decision.rules, allowed=decision.allowed,
            document=document.decode(),
        )  # fmt: skip

    def _found(self, digest: str) -> tuple[bytes, dict[str, Any]]:
        with steward.opened(self._site) as state:
            record = steward.find(state, digest)
        if record.assignment.study_digest != digest:
            raise StudyRefused("study.unknown")
        lines = [line for line in site_status(self._site)["studies"] if line["digest"] == digest]
        return record.assignment.document, lines[-1]

    def _preview(self, digest: str, language: str) -> Answer:
        from edge.preview import COUNTS, preview

        document, _line = self._found(digest)
        if not self._looking.acquire(blocking=False):
            raise InputError("input.usage", "another preview is being made: wait for it")
        try:
            made = preview(self._site, document, first_rows=_FIRST_ROWS)
        finally:
            self._looking.release()
        counts = [(name, getattr(made, name)) for name in COUNTS]
        return self._page("preview.html", language, made=made, digest=digest, counts=counts)

    def _journal(self, query: Mapping[str, str], language: str) -> Answer:
        from edge.journal import Journal

        record = Journal(self._site.state_dir / "journal.jsonl", readonly=True)
        count = record.verify()
        before = (
            int(query["before"]) if query.get("before", "").isascii() and query.get("before", "").isdigit() else count
        )
        lines = [line for line in record.tail(count) if line.seq < before][-_LINES:]
        older = lines[0].seq if lines and lines[0].seq > 0 else None
        return self._page("journal.html", language, lines=lines[::-1], count=count, head=record.head(), older=older)

    def _refused(self, status: int, error: CorsiaError, language: str) -> Answer:
        said = {"code": error.code, "detail": error.message, "hint": error.hint}
        return self._page("refused.html", language, status_code=status, **said)

    def _page(self, template: str, language: str, *, status_code: int = 200, **values: Any) -> Answer:
        say = words(language)
        common = {
            "t": say, "named": say.named, "told": say.told, "lang": language, "languages": LANGUAGES,
            "site": self._site.site, "mark": self._mark,
        }  # fmt: skip
        return Answer(status_code, self._pages.get_template(template).render(common | values))


def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "sitepages"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["when"] = lambda at: f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    made.filters["number"] = lambda n: "–" if n is None else f"{n:,}".replace(",", "\u202f")
    return made
