"""One row a patient out of clinical events: the features that a study declares, in windows around an index date.

Place: `Events` (FHIR, OMOP or a table) -> `extract` -> frame with the columns of `schema`. A window counts days from
the index date, both ends included; days are calendar days as written on the record. A measurement whose unit is
missing or does not convert is withheld and counted; so is one that no living person can have. A code that never
occurred is 0, a measurement that never was taken is missing. Not here: reading, pseudonyms, disclosure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.features import events as clinical_events
from pipelines.features import units
from pipelines.features.events import Events, Findings
from pipelines.features.schema import Feature, check_names
from protocol.errors import InputError
from protocol.validation import first_fault

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Days = npt.NDArray[np.float64]

__all__ = ["Clinical", "Parameters", "ancestors", "extract", "parameters_of", "schema"]

MAX_AGE = 90
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Code = Annotated[str, Field(min_length=1, max_length=64)]
Statistic = Literal["last", "first", "mean", "min", "max", "slope", "count"]
Exposure = Literal["any", "count", "days"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CodeSet(_Model):
    """Which records are meant: exact codes, prefixes of codes, descendants of codes, all in one code system.

    `system` is a short name (`loinc`, `snomed`, `icd10` for every national edition, `atc`, `rxnorm`, `omop`) or the
    URI of records; None is any. Dots, blanks and case of a code do not matter in ICD and ATC.
    """

    system: Code | None = None
    codes: tuple[Code, ...] = ()
    prefixes: tuple[Code, ...] = ()
    descendants_of: tuple[Code, ...] = ()

    @model_validator(mode="after")
    def _some(self) -> CodeSet:
        if not (self.codes or self.prefixes or self.descendants_of):
            raise ValueError("codes, prefixes or descendants_of must be given")
        if self.descendants_of and self.system is None:
            raise ValueError("descendants_of needs a system")
        return self


class Window(_Model):
    """Days from the index date, both included; a missing end is open. `{end = -1}` is all before the index."""

    start: int | None = Field(None, ge=-60_000, le=60_000)
    end: int | None = Field(None, ge=-60_000, le=60_000)

    @model_validator(mode="after")
    def _order(self) -> Window:
        if self.start is not None and self.end is not None and self.start > self.end:
            raise ValueError("start is after end")
        return self


class Index(_Model):
    """The index date: the first record of a code set, the date the source brings, or one date for all."""

    first: CodeSet | None = None
    column: bool = False
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None

    @model_validator(mode="after")
    def _one(self) -> Index:
        if sum((self.first is not None, self.column, self.date is not None)) != 1:
            raise ValueError("exactly one of first, column and date")
        if self.date is not None and clinical_events.when(self.date) is None:
            raise ValueError("date is no day")
        return self


class CodeCount(_Model):
    """Records of a code set: how many (one record counts once, whatever its codings), or whether any."""

    kind: Literal["codes"]
    name: Word
    of: CodeSet
    window: Window | None = None
    output: Literal["count", "any"] = "count"


class Measurement(_Model):
    """Statistics of a measurement in one unit.

    Attributes:
        unit: UCUM; the unit of the result and of `plausible`.
        analyte: a key of `units.ANALYTES`; found by the LOINC codes when None.
        plausible: bounds; those of the analyte when None.
        spellings: what units of this source that are not UCUM mean (`C = "Cel"`); the study's word, not a guess.
    """

    kind: Literal["measurement"]
    name: Word
    of: CodeSet
    unit: Annotated[str, Field(min_length=1, max_length=32)]
    statistics: tuple[Statistic, ...] = ("last",)
    window: Window | None = None
    analyte: Annotated[str, Field(max_length=48)] | None = None
    plausible: tuple[float, float] | None = None
    spellings: Mapping[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> Measurement:
        if units.parse(self.unit) is None:
            raise ValueError("unit is not in the UCUM subset")
        if self.analyte is not None and self.analyte not in units.ANALYTES:
            raise ValueError("analyte is not known")
        if not self.statistics or len(set(self.statistics)) != len(self.statistics):
            raise ValueError("statistics are empty or repeated")
        return self


class Drug(_Model):
    """Exposure to a drug: any, number of records, distinct days covered within the window."""

    kind: Literal["drug"]
    name: Word
    of: CodeSet
    statistics: tuple[Exposure, ...] = ("any",)
    window: Window | None = None


class Charlson(_Model):
    """Charlson index of the diagnoses in the window; `age_adjusted` adds the points of the age at the index."""

    kind: Literal["charlson"]
    name: Word = "charlson"
    window: Window | None = None
    weights: Literal["charlson", "quan2011"] = "charlson"
    age_adjusted: bool = False


class Age(_Model):
    """Completed years at the index date, capped; with `band` the lower end of a band of so many years."""

    kind: Literal["age"]
    name: Word = "age"
    cap: int = Field(MAX_AGE, ge=1, le=MAX_AGE)
    band: int | None = Field(None, ge=2, le=50)


class Sex(_Model):
    """F, M or O; missing when unknown."""

    kind: Literal["sex"]
    name: Word = "sex"


Wanted = Annotated[CodeCount | Measurement | Drug | Charlson | Age | Sex, Field(discriminator="kind")]


class Parameters(_Model):
    """Parameters of the clinical extractor.

    Attributes:
        index: the index date; needed by windows, age and age adjustment.
        without_index: `drop` patients who have none (counted), or `keep` them with missing features.
        features: what is made, in this order.
    """

    index: Index | None = None
    without_index: Literal["drop", "keep"] = "drop"
    features: Annotated[tuple[Wanted, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _index_there(self) -> Parameters:
        for feature in self.features:
            window = getattr(feature, "window", None)
            if self.index is None and (window is not None or isinstance(feature, Age)):
                raise ValueError(f"{feature.name}: an index date is needed")
            if self.index is None and getattr(feature, "age_adjusted", False):
                raise ValueError(f"{feature.name}: an index date is needed")
        return self


def parameters_of(given: Mapping[str, object]) -> Parameters:
    """Parameters out of a study's TOML.

    Raises:
        InputError: `input.study`, naming the field.
    """
    try:
        return Parameters.model_validate(given)
    except ValidationError as error:
        raise InputError("input.study", f"clinical parameters, {first_fault(error)}") from None


def ancestors(parameters: Parameters) -> frozenset[tuple[str, str]]:
    """(system, code) whose descendants the parameters ask for: what `omop.read` must look up."""
    sets = [getattr(feature, "of", None) for feature in parameters.features]
    sets += [parameters.index.first if parameters.index else None]
    known = [(clinical_events.system(s.system), s.descendants_of) for s in sets if s is not None]
    return frozenset((name, code) for name, codes in known for code in codes)


def schema(parameters: Parameters) -> tuple[Feature, ...]:
    """The columns made, in order.

    Raises:
        InputError: `input.usage` when two have one name.
    """
    found = tuple(feature for wanted in parameters.features for feature in _columns(wanted))
    check_names(found)
    return found


class Clinical:
    """The plug-in: a study's TOML in, the columns that it makes out."""

    name = "clinical"
    version = 1

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """The columns made under these parameters, in order."""
        return schema(parameters_of(parameters))


_UNIT_OF = {"count": "{count}", "any": "", "days": "d"}
_SOURCE = f"Corsia clinical extractor {Clinical.version}"


def _columns(wanted: Any) -> list[Feature]:
    window = _words(getattr(wanted, "window", None))
    if isinstance(wanted, CodeCount):
        dtype, unit = ("bool", "") if wanted.output == "any" else ("int64", "{count}")
        what = "whether any record" if wanted.output == "any" else "number of records"
        return [Feature(wanted.name, dtype, unit, f"{what} with {_said(wanted.of)} {window}", _SOURCE)]
    if isinstance(wanted, Measurement):
        return [_measured(wanted, statistic, window) for statistic in wanted.statistics]
    if isinstance(wanted, Drug):
        dtypes = {"any": "bool", "count": "int64", "days": "int64"}
        text = {"any": "whether any exposure", "count": "number of exposures", "days": "distinct days covered"}
        return [
            Feature(f"{wanted.name}_{s}", dtypes[s], _UNIT_OF[s], f"{text[s]}, {_said(wanted.of)} {window}", _SOURCE)
            for s in wanted.statistics
        ]
    if isinstance(wanted, Charlson):
        age = ", with age points" if wanted.age_adjusted else ""
        text_ = f"Charlson index ({wanted.weights} weights{age}) of ICD diagnoses {window}"
        return [Feature(wanted.name, "int64", "{score}", text_, "Quan 2005; Charlson 1987, 1994; Quan 2011")]
    if isinstance(wanted, Age):
        band = f", lower end of bands of {wanted.band} years" if wanted.band else ""
        age = f"completed years at the index date, at most {wanted.cap}{band}"
        return [Feature(wanted.name, "int64", "a", age, _SOURCE)]
    return [Feature(wanted.name, "category", "", "administrative sex: F, M or O", "FHIR R4; OMOP CDM 5.4")]


def _measured(wanted: Measurement, statistic: str, window: str) -> Feature:
    unit = {"count": "{count}", "slope": f"{wanted.unit}/a"}.get(statistic, wanted.unit)
    what = "least-squares slope by year" if statistic == "slope" else statistic
    text = f"{what} of measurements with {_said(wanted.of)} in {wanted.unit} {window}"
    return Feature(f"{wanted.name}_{statistic}", "int64" if statistic == "count" else "float64", unit, text, _SOURCE)


def _said(of: CodeSet) -> str:
    parts = [*of.codes, *(f"{p}*" for p in of.prefixes), *(f"below {a}" for a in of.descendants_of)]
    return f"{of.system or 'any system'} {', '.join(parts[:8])}{' ...' if len(parts) > 8 else ''}"


def _words(window: Window | None) -> str:
    if window is None:
        return "at any time"
    ends = ["open" if end is None else f"{end:+d}" for end in (window.start, window.end)]
    return f"in days {ends[0]} to {ends[1]} of the index"


def extract(source: Events, parameters: Parameters, findings: Findings | None = None) -> pd.DataFrame:
    """One row a person, index = person (sorted), columns = `schema(parameters)`.

    Args:
        source: the events; left as they are.
        parameters: what is wanted.
        findings: where withheld things are counted; the source's own when None. Reasons: `no-index`, `unit-missing`,
            `unit-unknown`, `unit-mismatch`, `implausible`, `no-length`, `birth-partial`.

    Raises:
        InputError: `input.usage` when descendants are asked for and the source has no hierarchy.
    """
    from pipelines.features.windows import Table

    table = Table(source, parameters, source.findings if findings is None else findings)
    return table.frame(schema(parameters))
