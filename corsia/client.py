"""The notebook's way to a centre: studies, tables, models and the log over the REST API.

    hub = corsia.connect("http://127.0.0.1:7480", token_file="operator.token")
    study = hub.studies.submit(Path("study.toml"))
    study.watch()
    hub.features(study.id).to_pandas()

Only what the API gives is seen here; errors come as `protocol.errors` by their code. Heavy libraries (pandas, pyarrow,
mlflow) are imported when used.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from corsia import replies
from corsia.features import Answer, FeatureTable
from corsia.live import in_notebook
from corsia.log import Log
from corsia.login import check_address
from corsia.models import Model, Models
from corsia.statistics import Statistics
from corsia.studies import Studies, StudyTable
from corsia.tables import Listing
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    CorsiaError,
    StudyRefused,
    UnavailableError,
)

if TYPE_CHECKING:
    import httpx

    from corsia.answers import Me
    from privacy.envelope import SecretKey

__all__ = ["Hub", "Log", "Model", "Models", "connect"]


def connect(
    url: str,
    token: str | None = None,
    token_file: str | Path | None = None,
    *,
    timeout_s: float = 60.0,
    interactive: bool | None = None,
) -> Hub:
    """Connect to a centre and check that the token is right.

    Without a token the one is taken that a log-in has kept (`corsia account login URL`); with none kept, a person at a
    notebook or a terminal is asked to log in at the centre's OpenID provider.

    Args:
        url: address of the web process, as in `http://127.0.0.1:7480`.
        token: an operator's token, or an API token; or
        token_file: the file that holds it (`operator.token` in the centre's state folder, or a named operator's).
        timeout_s: of each request, in seconds.
        interactive: whether a person can be asked to log in; None: as it looks.

    Raises:
        AuthenticationError: `auth.token`, `auth.provider`.
        ConfigurationError: `config.key-mode` when others can read a named operator's token file.
        InputError: `input.usage` for what is no address.
        UnavailableError: `unavailable.centre`.

    Examples:
        >>> connect("http://127.0.0.1:1", token="t")
        Traceback (most recent call last):
        protocol.errors.UnavailableError: the centre does not answer at http://127.0.0.1:1 [unavailable.centre]
    """
    if token is None:
        token = _found(url, token_file, _at_hand() if interactive is None else interactive)
    hub = Hub(url, token, timeout_s=timeout_s)
    try:
        hub.me = hub.request("GET", "/me")
    except CorsiaError:
        hub.close()
        raise
    return hub


def _found(url: str, token_file: str | Path | None, interactive: bool) -> str:
    """The token of a file, or the one kept for this centre, or of a log-in now."""
    from central.operators import read_token
    from corsia.login import keep, login, saved

    if token_file is not None:
        return read_token(Path(token_file))
    if saved(url).exists():
        return read_token(saved(url))
    if not interactive:
        raise AuthenticationError("auth.token", f"give token or token_file, or say: corsia account login {url}")
    token = str(login(url)["token"])
    keep(url, token)
    return token


def _at_hand() -> bool:
    """Whether a person can be asked: in a notebook, or at a terminal."""
    return in_notebook() or (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty())


class Hub:
    """A connection to one centre. Made by `connect`."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 60.0) -> None:
        check_address(url)
        try:
            import httpx
        except ImportError:
            raise ConfigurationError("config.extra-missing", "corsia[demo] or corsia[central] is needed") from None
        from central.operators import bearer

        self.url, self.token = url.rstrip("/"), token
        self.me: Me = {"operator": "", "name": "", "account": "", "roles": [], "scopes": []}  # told by `connect`
        self._http: httpx.Client = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {bearer(token)}"},  # a named operator's seal stays here
            timeout=timeout_s,
            trust_env=self.url.startswith("https://"),
        )

    @property
    def sites(self) -> Listing:
        """Enrolled sites with their last heartbeat.

        Examples:
            >>> [site["name"] for site in hub.sites]
            ['site-a', 'site-b']
        """
        rows = self.pages("/sites?limit=1000")
        return Listing(rows, ("name", "network", "alive", "paused", "version", "spool_parcels"))

    @property
    def datasets(self) -> Listing:
        """What sites tell of their data: about how many rows, which columns. Never a row.

        Examples:
            >>> [row["dataset"] for row in hub.datasets if (row["rows"] or 0) >= 20]
            ['lung']
        """
        rows = self.pages("/datasets?limit=1000")
        return Listing(rows, ("dataset", "site", "kinds", "rows", "lanes", "columns"))

    @property
    def remotes(self) -> Listing:
        """Public or agreed tables that the centre harvested by itself, each with its licence and publisher.

        Examples:
            >>> [(row["name"], row["licence"]) for row in hub.remotes]
            [('weather', 'CC-BY-4.0')]
        """
        rows = self.pages("/remotes?limit=1000")
        return Listing(rows, ("name", "state", "rows", "licence", "publisher", "columns"))

    def remote(self, name: str) -> Answer:
        """The rows of a remote table; in `hub.features(...).sql` it is the table `remote_NAME`. Raises as `request`."""
        return Answer(replies.rows(self.download(f"/remotes/{quote(name, safe='')}/table"), self.url))

    @property
    def lanes(self) -> Listing:
        """Totals of each lane.

        Examples:
            >>> [lane["lane"] for lane in hub.lanes]
            ['harvest', 'anonymize', 'extract', 'train', 'infer']
        """
        rows = self.pages("/lanes")
        return Listing(rows, ("lane", "studies", "records", "files", "parcels", "bytes", "withheld"))

    @property
    def studies(self) -> Studies:
        """Studies: submit, list, pick."""
        return Studies(self)

    @property
    def models(self) -> Models:
        """Published models by name."""
        return Models(self)

    @property
    def log(self) -> Log:
        """The append-only log."""
        return Log(self)

    def table(self, study_id: str) -> StudyTable:
        """The curated rows of a study of lanes 1 to 3."""
        return StudyTable(self, study_id)

    def features(self, study_id: str) -> FeatureTable:
        """The feature table of a study of lane 3: SQL, pandas, plots, standard analyses, report.

        Raises:
            StudyRefused: `study.unknown`, also for a study of another lane.

        Examples:
            >>> hub.features("lung").to_pandas().groupby("site")["age"].count().to_dict()
            {'site-a': 6, 'site-b': 6}
        """
        if self.studies[study_id].status().value["lane"] != "extract":
            raise StudyRefused("study.unknown", f"study {study_id} extracts no features: use hub.table(...)")
        return FeatureTable(self, study_id)

    def statistics(self, study_id: str) -> Statistics:
        """The pooled statistics of a study with pipeline `aggregate`: no row of it ever left a hospital."""
        return Statistics(self, study_id)

    def request(self, method: str, path: str, **more: Any) -> Any:
        """One call of the API; its JSON answer.

        Raises:
            CorsiaError: by the code of the problem document.
            UnavailableError: `unavailable.centre`.
        """
        return replies.read(method, path, self._send(method, path, more).content, self.url)

    def pages(self, path: str) -> list[dict[str, Any]]:
        """All rows of a list, page by page. Raises as `request`."""
        rows: list[dict[str, Any]] = []
        for _ in range(replies.MAX_PAGES):
            answer = self._send("GET", path, {})
            rows += replies.read("GET", path, answer.content, self.url)
            path = replies.onward(path, answer.links.get("next", {}).get("url", ""))
            if not path:
                return rows
        raise replies.foreign(self.url)

    def download(self, path: str) -> bytes:
        """One call of the API; its raw answer. Raises as `request`."""
        return self._send("GET", path, {"timeout": 300.0}).content

    def post(self, path: str, body: Any) -> bytes:
        """One call of the API with a JSON body; its raw answer. Raises as `request`."""
        return self._send("POST", path, {"json": body, "timeout": 300.0}).content

    def invoke(self, name: str, version: int | None, body: bytes, content_type: str, alias: str = "") -> Any:
        """`POST /models/NAME/invocations`: rows in, predictions out. Raises as `request`."""
        asked = {"version": version} if version is not None else {"alias": alias} if alias else {}
        more = {"content": body, "params": asked, "headers": {"Content-Type": content_type}, "timeout": 300.0}
        return self.request("POST", f"/models/{quote(name, safe='')}/invocations", **more)

    def operator(self) -> tuple[str, SecretKey]:
        """Who is connected, and the key that signs for this person; it stays on this machine."""
        from central.operators import signing_key

        return str(self.request("GET", "/me")["operator"]), signing_key(self.token)

    def lines(self, path: str, *, silent_s: float = 60.0) -> Generator[str, None, None]:
        """The lines of a streamed answer, as they come. Raises as `request`, also when it breaks or is silent."""
        import httpx

        try:
            with self._http.stream("GET", path, timeout=silent_s) as answer:
                if not answer.is_success:
                    answer.read()
                    raise replies.refusal(answer.status_code, answer.content)
                yield from answer.iter_lines()
        except httpx.HTTPError:
            raise UnavailableError("unavailable.centre", f"the centre does not answer at {self.url}") from None

    def logout(self) -> None:
        """End this API token at the centre; an operator's token is his file, and stays."""
        self._send("POST", f"{self.url}/auth/logout", {})

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """For example:

        >>> corsia.Hub("http://127.0.0.1:7480", "token")
        <corsia hub at http://127.0.0.1:7480>
        """
        return f"<corsia hub at {self.url}>"

    def _repr_html_(self) -> str:
        who = html.escape(self.me["name"])
        roles = html.escape(", ".join(self.me["roles"]))
        return f"<p>Corsia at <b>{html.escape(self.url)}</b>, as {who} ({roles})</p>{self.lanes._repr_html_()}"

    def _send(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, **more)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise UnavailableError("unavailable.centre", f"the centre does not answer at {self.url}") from None
        if answer.is_success:
            return answer
        raise replies.refusal(answer.status_code, answer.content)
