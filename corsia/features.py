"""A joint feature table as a notebook handles it: SQL, pandas, plots, standard analyses and a report.

    table = hub.features("lung-ct")
    table.sql("SELECT site, avg(age) AS age FROM features GROUP BY site").to_pandas()
    table.kaplan_meier("time", "event", by="sex").plot()
    table.report("lung-ct.html", by="site")

The analyses run in the centre's vault; small groups come back as None. Nothing here keeps rows.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from corsia import replies
from corsia.figures import blank
from corsia.studies import StudyTable
from corsia.tables import html_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

__all__ = ["Analysis", "Answer", "FeatureTable"]

_STYLE = "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:left}img{max-width:100%}"  # noqa: E501


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows that a query gave."""

    table: pa.Table

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        """As a DataFrame; dates are datetime64."""
        frame: pd.DataFrame = self.table.to_pandas(date_as_object=False)
        return frame

    def __repr__(self) -> str:
        return f"<{self.table.num_rows} rows x {self.table.num_columns} columns>"

    def _repr_html_(self) -> str:
        shown = self.table.slice(0, 50)
        return html_table(shown.column_names, [list(row.values()) for row in shown.to_pylist()])


@dataclass(frozen=True, slots=True)
class Analysis:
    """The outcome of a standard analysis. `value` is the API's whole answer; a None in it was suppressed."""

    value: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`table1`, `kaplan-meier`, `cox` or `logistic`."""
        return str(self.value["kind"])

    def to_pandas(self) -> pd.DataFrame:
        """One row a characteristic and level, a curve's time, or a term."""
        import pandas as pd

        if self.kind == "table1":
            return pd.DataFrame(_characteristics(self.value))
        if self.kind == "kaplan-meier":
            names = ("time", "survival", "lower", "upper", "at_risk")
            frames = [pd.DataFrame({"group": c["group"], **{n: c[n] for n in names}}) for c in self.value["curves"]]
            return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["group", *names])
        return pd.DataFrame(self.value["terms"])

    def plot(self) -> Figure:
        """Survival curves with their bands, or a forest plot of the ratios.

        Raises:
            ValueError: for a Table 1, which is a table.
        """
        figure = blank(7, 4.2)
        axes = figure.subplots()
        if self.kind == "kaplan-meier":
            _draw_curves(axes, self.value)
        elif self.kind in ("cox", "logistic"):
            _draw_forest(axes, self.value)
        else:
            raise ValueError("a Table 1 has no plot")
        return figure

    def __repr__(self) -> str:
        return f"<{self.kind} of {self.value['study']}>"

    def _repr_html_(self) -> str:
        frame = self.to_pandas()
        rows = [[_brief(v) for v in row] for row in frame.head(60).itertuples(index=False, name=None)]
        return html_table([str(c) for c in frame.columns], rows)


class FeatureTable(StudyTable):
    """The joint table of a study of lane 3."""

    def sql(self, query: str) -> Answer:
        """One SELECT over the table `features`, answered in the vault by DuckDB.

        Raises:
            InputError: `input.usage` with the reason.

        Examples:
            >>> query = "SELECT site, count(*) AS n FROM features GROUP BY site ORDER BY site"
            >>> answer = hub.features("lung").sql(query)
            >>> answer.to_pandas().to_dict("list")
            {'site': ['site-a', 'site-b'], 'n': [6, 6]}
        """
        data = self.hub.post(f"/studies/{quote(self.study, safe='')}/sql", {"query": query})
        return Answer(replies.rows(data, self.hub.url))

    def table1(self, columns: Sequence[str], by: str | None = None) -> Analysis:
        """Baseline characteristics (mean, sd, quartiles, counts), by group with a test where `by` is given."""
        return self._analyse(kind="table1", columns=list(columns), by=by)

    def kaplan_meier(self, time: str, event: str, by: str | None = None) -> Analysis:
        """Survival curves with 95 % bands, numbers at risk and the log-rank test."""
        return self._analyse(kind="kaplan-meier", time=time, event=event, by=by)

    def cox(self, time: str, event: str, covariates: Sequence[str], strata: Sequence[str] = ()) -> Analysis:
        """Proportional hazards; `strata=["site"]` lets each site have its own baseline."""
        return self._analyse(kind="cox", time=time, event=event, covariates=list(covariates), strata=list(strata))

    def logistic(self, outcome: str, covariates: Sequence[str]) -> Analysis:
        """Logistic regression with odds ratios and AUC."""
        return self._analyse(kind="logistic", outcome=outcome, covariates=list(covariates))

    def plot(self, columns: Sequence[str] | None = None) -> Figure:
        """Histograms (numbers) by site, at most twelve columns; bars of fewer than the least group are left out."""
        summary, frame = self.summary(), self.to_pandas()
        numeric = [c["name"] for c in summary["columns"] if "mean" in c]
        chosen = [name for name in (columns or numeric[:12]) if name in frame.columns][:12]
        across = min(3, max(1, len(chosen)))
        down = max(1, -(-len(chosen) // across))
        figure = blank(3.6 * across, 2.6 * down)
        for axes, name in zip(figure.subplots(down, across, squeeze=False).flat, chosen, strict=False):
            _draw_histogram(axes, frame, name, int(summary["min_group"]))
        return figure

    def report(self, path: str | Path, *, by: str | None = None, analyses: Sequence[Analysis] = ()) -> Path:
        """Write one HTML page without scripts or links: summary, distributions, Table 1 and the given analyses."""
        summary = self.summary()
        names = [str(c["name"]) for c in summary["columns"]]
        usable = [n for n in names if n not in ("pseudonym", by)][:60]
        made = [*([self.table1(usable, by)] if usable else []), *analyses]
        parts = [f"<h1>{html.escape(self.study)}</h1>", f"<p>{summary['rows']} rows; groups under "]
        parts += [f"{summary['min_group']} are not shown.</p>", _summary_html(summary), _image(self.plot())]
        for analysis in made:
            parts.append(f"<h2>{html.escape(analysis.kind)}</h2>{analysis._repr_html_()}")
            if analysis.kind != "table1":
                parts.append(_image(analysis.plot()))
        page = "".join(parts)
        target = Path(path)
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(self.study)}</title>"
        target.write_text(f"{head}<style>{_STYLE}</style><body>{page}</body></html>", encoding="utf-8")
        return target

    def _analyse(self, **request: Any) -> Analysis:
        body = {k: v for k, v in request.items() if v is not None}
        return Analysis(self.hub.request("POST", f"/studies/{quote(self.study, safe='')}/analyses", json=body))


def _characteristics(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for row in value["rows"]:
        for group, told in row["groups"].items():
            base = {"column": row["column"], "group": group, "n": told["n"], "missing": told["missing"], "p": row["p"]}
            if row["type"] == "number":
                rows.append({**base, "level": "", "count": None, **{k: told[k] for k in ("mean", "sd", "median")}})
            else:
                rows += [{**base, "level": level, "count": n} for level, n in told["levels"].items()]
    return rows


def _draw_curves(axes: Any, value: Mapping[str, Any]) -> None:
    for curve in value["curves"]:
        (line,) = axes.step(curve["time"], curve["survival"], where="post", label=f"{curve['group']} (n={curve['n']})")
        bounds = [(t, lo, up) for t, lo, up in zip(curve["time"], curve["lower"], curve["upper"], strict=True) if lo]
        if bounds:
            times, low, up = zip(*bounds, strict=True)
            axes.fill_between(times, low, up, step="post", alpha=0.15, color=line.get_color())
    axes.set(xlabel="time", ylabel="survival", ylim=(0, 1.02))
    if value["logrank_p"] is not None:
        axes.set_title(f"log-rank p = {value['logrank_p']:.3g}", fontsize=10)
    axes.legend(frameon=False)


def _draw_forest(axes: Any, value: Mapping[str, Any]) -> None:
    ratio = "hazard_ratio" if value["kind"] == "cox" else "odds_ratio"
    terms = [t for t in value["terms"] if t["term"] != "intercept" and None not in (t[ratio], t["lower"], t["upper"])]
    places = range(len(terms), 0, -1)
    middle = [t[ratio] for t in terms]
    spans = [[t[ratio] - t["lower"] for t in terms], [t["upper"] - t[ratio] for t in terms]]
    axes.errorbar(middle, list(places), xerr=spans, fmt="s", capsize=3)
    axes.axvline(1.0, color="0.6", linewidth=1)
    axes.set_yticks(list(places), [t["term"] for t in terms])
    axes.set(xscale="log", xlabel=f"{ratio.replace('_', ' ')} (95 % interval)")


def _draw_histogram(axes: Any, frame: pd.DataFrame, name: str, least: int) -> None:
    import numpy as np

    values = frame[name].astype(float)
    usable = values[np.isfinite(values)]
    if len(usable) >= least:
        edges = np.histogram_bin_edges(usable, bins=min(30, max(5, len(usable) // 10)))
        for site, part in frame.assign(**{name: values}).groupby("site"):
            counts, _ = np.histogram(part[name][np.isfinite(part[name])], edges)
            axes.stairs(np.where(counts >= least, counts, 0), edges, label=str(site))
        axes.legend(frameon=False, fontsize=7)
    axes.set_title(name, fontsize=9)


def _summary_html(summary: Mapping[str, Any]) -> str:
    names = ("name", "type", "missing", "distinct", "mean", "sd", "min", "max")
    rows = [[_brief(column.get(n)) for n in names] for column in summary["columns"]]
    sites = html_table(("site", "rows"), [[k, _brief(v)] for k, v in summary["sites"].items()])
    return sites + html_table(names, rows)


def _image(figure: Figure) -> str:
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=110)
    return f'<p><img alt="plot" src="data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"></p>'


def _brief(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else value
