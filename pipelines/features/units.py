"""Units of measurement: a subset of UCUM, conversion between them, plausible bounds of common analytes.

`convert` answers with a number or with the reason why not; nothing is ever guessed: a missing unit, one that this
subset does not read, or one of another dimension is a reason. Mass and substance concentration meet through the molar
mass of the analyte alone. Not here: which measurement is wanted in which unit (`history.py`).

Source: UCUM 2.1; molar masses from IUPAC standard atomic weights; HbA1c by the IFCC-NGSP master equation (Hoelzel et
al., Clin Chem 2004;50:166-74). Bounds are limits of plausibility for any living person, not reference ranges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["ANALYTES", "Analyte", "Unit", "analyte", "convert", "parse"]

_BASES = ("g", "mol", "m", "s", "K", "U", "IU")
_Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as factor and exponents of `_BASES`; `offset` in base units for temperatures; equivalents marked."""

    factor: float
    dims: _Dims
    offset: float = 0.0
    equivalents: bool = False


def _dims(**exponents: int) -> _Dims:
    return tuple(exponents.get(name, 0) for name in _BASES)


_NONE = _dims()
_PREFIXES = {
    "k": 1e3,
    "h": 1e2,
    "da": 1e1,
    "d": 1e-1,
    "c": 1e-2,
    "m": 1e-3,
    "u": 1e-6,
    "n": 1e-9,
    "p": 1e-12,
    "f": 1e-15,
}
_METRIC = {
    "g": Unit(1.0, _dims(g=1)),
    "mol": Unit(1.0, _dims(mol=1)),
    "m": Unit(1.0, _dims(m=1)),
    "s": Unit(1.0, _dims(s=1)),
    "L": Unit(1e-3, _dims(m=3)),
    "l": Unit(1e-3, _dims(m=3)),
    "U": Unit(1.0, _dims(U=1)),
    "[IU]": Unit(1.0, _dims(IU=1)),
    "[iU]": Unit(1.0, _dims(IU=1)),
    "kat": Unit(6e7, _dims(U=1)),
    "eq": Unit(1.0, _dims(mol=1), equivalents=True),
    "Pa": Unit(1e3, _dims(g=1, m=-1, s=-2)),
    "m[Hg]": Unit(133322.387415e3, _dims(g=1, m=-1, s=-2)),
    "osm": Unit(1.0, _dims(mol=1)),
    "cal": Unit(4184.0, _dims(g=1, m=2, s=-2)),
    "J": Unit(1000.0, _dims(g=1, m=2, s=-2)),
}
_PLAIN = {
    "1": Unit(1.0, _NONE),
    "%": Unit(0.01, _NONE),
    "[ppth]": Unit(1e-3, _NONE),
    "min": Unit(60.0, _dims(s=1)),
    "h": Unit(3600.0, _dims(s=1)),
    "d": Unit(86400.0, _dims(s=1)),
    "wk": Unit(604800.0, _dims(s=1)),
    "mo": Unit(2629800.0, _dims(s=1)),
    "a": Unit(31557600.0, _dims(s=1)),
    "Cel": Unit(1.0, _dims(K=1), offset=273.15),
    "K": Unit(1.0, _dims(K=1)),
    "[degF]": Unit(5 / 9, _dims(K=1), offset=459.67 * 5 / 9),
    "[lb_av]": Unit(453.59237, _dims(g=1)),
    "[oz_av]": Unit(28.349523125, _dims(g=1)),
    "[in_i]": Unit(0.0254, _dims(m=1)),
    "[ft_i]": Unit(0.3048, _dims(m=1)),
}
#: Spellings met in records that can mean but one unit, in small letters without blanks.
_SPELLINGS = {
    "mmhg": "mm[Hg]", "mm(hg)": "mm[Hg]", "bpm": "/min", "beats/min": "/min", "beats/minute": "/min",
    "breaths/min": "/min", "breaths/minute": "/min", "/minute": "/min", "1/min": "/min", "°c": "Cel", "degc": "Cel",
    "celsius": "Cel", "°f": "[degF]", "degf": "[degF]", "fahrenheit": "[degF]", "lb": "[lb_av]", "lbs": "[lb_av]",
    "percent": "%", "pct": "%", "kg/m²": "kg/m2", "kg/m^2": "kg/m2", "kg/m**2": "kg/m2", "inches": "[in_i]",
    "years": "a", "days": "d", "hours": "h", "minutes": "min", "iu/l": "[IU]/L", "iu/ml": "[IU]/mL",
    "miu/l": "m[IU]/L", "uiu/ml": "u[IU]/mL", "µiu/ml": "u[IU]/mL", "μiu/ml": "u[IU]/mL", "units/l": "U/L",
    "k/ul": "10*3/uL", "thou/ul": "10*3/uL", "m/ul": "10*6/uL", "meq/l": "meq/L", "mg/dl": "mg/dL", "g/dl": "g/dL",
    "mmol/l": "mmol/L", "umol/l": "umol/L", "µmol/l": "umol/L", "μmol/l": "umol/L", "ng/ml": "ng/mL",
    "pg/ml": "pg/mL", "ug/dl": "ug/dL", "mcg/dl": "ug/dL", "mcg/l": "ug/L", "ug/l": "ug/L", "mg/l": "mg/L",
    "g/l": "g/L", "u/l": "U/L", "nmol/l": "nmol/L", "pmol/l": "pmol/L", "ml/min/1.73m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m^2": "mL/min/{1.73_m2}", "ml/min/1.73m²": "mL/min/{1.73_m2}", "score": "{score}", "count": "{count}",
}  # fmt: skip
_FACTOR = re.compile(r"(?:10\*|10\^)(-?\d+)")
_TERM = re.compile(r"((?:\[[^\]]*\]|[A-Za-z%µμ'])+|1)(-?\d+)?")
_BMI_AREA = re.compile(r"/\{?1\.73[_ ]?m2\}?")


@lru_cache(maxsize=4096)
def parse(text: str) -> Unit | None:
    """Read a UCUM expression of products, quotients, powers and annotations; None when it is not in the subset.

    Example: `mg/dL`, `10*3/uL`, `mm[Hg]`, `kg/m2`, `/min`, `{beats}/min`, `mmol/mol`.
    """
    cleaned = "".join(text.split())
    cleaned = _SPELLINGS.get(cleaned.casefold(), cleaned).replace("µ", "u").replace("μ", "u")
    cleaned = re.sub(r"(?i)x10(?:e|\^|\*)?(?=\d)", "10*", cleaned)
    cleaned = re.sub(r"10(?:E|e|\^)(?=\d)", "10*", cleaned)
    cleaned = re.sub(r"/[uµ]l\b", "/uL", cleaned)
    cleaned = _BMI_AREA.sub("/{bsa}", cleaned)
    if not cleaned:
        return None
    result = Unit(1.0, _NONE)
    power = 1
    for index, part in enumerate(re.split(r"([./])", _plain(cleaned))):
        if part in ("/", "."):
            power = -1 if part == "/" else 1
            continue
        if not part:
            if index == 0:
                continue
            return None
        term = _term(part)
        if term is None:
            return None
        result = _times(result, term, power)
    return result


def _plain(text: str) -> str:
    """Annotations taken out: `{beats}/min` is `/min`, `{score}` is `1`, `a/{b}` is `a/1`."""
    bare = re.sub(r"(?<=[^./])\{[^{}]*\}", "", text)
    return re.sub(r"\{[^{}]*\}", "1", bare)


def _term(text: str) -> Unit | None:
    factor = _FACTOR.fullmatch(text)
    if factor is not None:
        return Unit(10.0 ** int(factor[1]), _NONE) if abs(int(factor[1])) <= 30 else None
    match = _TERM.fullmatch(text)
    atom = _atom(match[1]) if match else None
    if match is None or atom is None:
        return None
    power = int(match[2] or 1)
    if abs(power) > 6:
        return None
    return atom if power == 1 else _times(Unit(1.0, _NONE), atom, power)


def _atom(name: str) -> Unit | None:
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _METRIC:
        return _METRIC[name]
    for size in (2, 1):
        factor, base = _PREFIXES.get(name[:size]), _METRIC.get(name[size:])
        if factor is not None and base is not None:
            return Unit(base.factor * factor, base.dims, equivalents=base.equivalents)
    return None


def _times(left: Unit, right: Unit, power: int) -> Unit:
    dims = tuple(a + power * b for a, b in zip(left.dims, right.dims, strict=True))
    offset = right.offset if power == 1 and left == Unit(1.0, _NONE) else 0.0
    return Unit(left.factor * right.factor**power, dims, offset, left.equivalents or right.equivalents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyte:
    """What must be known of a substance to convert and to doubt its values.

    Attributes:
        unit: the unit of `low` and `high`, and the default target.
        low: smallest plausible value.
        high: greatest plausible value.
        molar_mass: g/mol, where mass and substance units are both in use.
        valence: charges, where equivalents are in use.
        loinc: codes under which it is reported.
    """

    unit: str
    low: float
    high: float
    molar_mass: float | None = None
    valence: int | None = None
    loinc: tuple[str, ...] = ()


def _of(
    unit: str, low: float, high: float, codes: str, mass: float | None = None, valence: int | None = None
) -> Analyte:
    return Analyte(unit=unit, low=low, high=high, molar_mass=mass, valence=valence, loinc=tuple(codes.split()))


ANALYTES: Mapping[str, Analyte] = {
    "glucose": _of("mmol/L", 0.1, 120, "2339-0 2345-7 15074-8 14749-6 1558-6 2340-8", 180.156),
    "creatinine": _of("umol/L", 5, 3500, "38483-4 2160-0 14682-9", 113.118),
    "cholesterol": _of("mmol/L", 0.3, 40, "2093-3 14647-2", 386.654),
    "hdl": _of("mmol/L", 0.05, 8, "2085-9 14646-4", 386.654),
    "ldl": _of("mmol/L", 0.05, 30, "18262-6 13457-7 2089-1 22748-8", 386.654),
    "triglycerides": _of("mmol/L", 0.1, 150, "2571-8 14927-8", 885.43),
    "urea_nitrogen": _of("mmol/L", 0.2, 120, "6299-2 3094-0", 28.014),
    "urea": _of("mmol/L", 0.2, 120, "22664-7 3091-6", 60.056),
    "urate": _of("umol/L", 10, 2500, "3084-1 14933-6", 168.110),
    "bilirubin": _of("umol/L", 0.5, 1500, "1975-2 14631-6", 584.662),
    "calcium": _of("mmol/L", 0.5, 6, "49765-1 17861-6 2000-8", 40.078, 2),
    "magnesium": _of("mmol/L", 0.1, 6, "2601-3 19123-9", 24.305, 2),
    "phosphate": _of("mmol/L", 0.05, 8, "2777-1 14879-1", 30.974),
    "sodium": _of("mmol/L", 90, 210, "2947-0 2951-2", 22.990, 1),
    "potassium": _of("mmol/L", 1, 15, "6298-4 2823-3", 39.098, 1),
    "chloride": _of("mmol/L", 50, 170, "2069-3 2075-0", 35.453, 1),
    "bicarbonate": _of("mmol/L", 1, 70, "20565-8 2028-9 1963-8", 61.017, 1),
    "lactate": _of("mmol/L", 0.1, 40, "2524-7 32693-4", 90.078),
    "hba1c": _of("%", 2.5, 25, "4548-4 17856-6 59261-8"),
    "haemoglobin": _of("g/dL", 1, 30, "718-7 59260-0", 16114.5),
    "haematocrit": _of("%", 5, 80, "4544-3 20570-8"),
    "leukocytes": _of("10*9/L", 0.01, 1000, "6690-2 26464-8"),
    "platelets": _of("10*9/L", 1, 3000, "777-3 26515-7"),
    "erythrocytes": _of("10*12/L", 0.5, 12, "789-8 26453-1"),
    "albumin": _of("g/L", 5, 80, "1751-7"),
    "alt": _of("U/L", 0.5, 30000, "1742-6"),
    "ast": _of("U/L", 0.5, 40000, "1920-8"),
    "alkaline_phosphatase": _of("U/L", 1, 10000, "6768-6"),
    "crp": _of("mg/L", 0.01, 1000, "1988-5 30522-7"),
    "ferritin": _of("ug/L", 0.5, 200000, "2276-4"),
    "tsh": _of("m[IU]/L", 0.001, 1000, "3016-3"),
    "vitamin_d": _of("nmol/L", 2, 1500, "62292-8 1989-3", 400.64),
    "egfr": _of("mL/min", 0.5, 250, "33914-3 62238-1 98979-8"),
    "temperature": _of("Cel", 20, 46, "8310-5"),
    "heart_rate": _of("/min", 10, 350, "8867-4"),
    "respiratory_rate": _of("/min", 2, 120, "9279-1"),
    "systolic": _of("mm[Hg]", 30, 320, "8480-6"),
    "diastolic": _of("mm[Hg]", 10, 220, "8462-4"),
    "oxygen_saturation": _of("%", 20, 100, "2708-6 59408-5"),
    "weight": _of("kg", 0.2, 650, "29463-7 3141-9"),
    "height": _of("cm", 20, 280, "8302-2 3137-7"),
    "bmi": _of("kg/m2", 5, 200, "39156-5"),
}
_BY_LOINC = {code: name for name, found in ANALYTES.items() for code in found.loinc}


def analyte(code: str) -> str | None:
    """The analyte that a LOINC code reports, where it is in the table."""
    return _BY_LOINC.get(code)


def convert(value: float, unit: str, target: str, name: str | None = None) -> float | str:
    """A value in another unit, or why not: `unit-missing`, `unit-unknown`, `unit-mismatch`.

    Args:
        value: the number on the record.
        unit: its unit on the record.
        target: the unit wanted.
        name: a key of `ANALYTES`, for what depends on the substance.
    """
    if not unit.strip():
        return "unit-missing"
    found, wanted = parse(unit), parse(target)
    if found is None or wanted is None:
        return "unit-unknown"
    if name == "hba1c":
        return _hba1c(value, unit, target)
    if found.offset or wanted.offset:
        return _affine(value, found, wanted)
    factor = found.factor / wanted.factor
    substance = ANALYTES.get(name) if name else None
    if found.equivalents != wanted.equivalents:
        if substance is None or substance.valence is None:
            return "unit-mismatch"
        factor *= substance.valence ** (-1 if found.equivalents else 1)
    moles, grams = _BASES.index("mol"), _BASES.index("g")
    shift = [a - b for a, b in zip(found.dims, wanted.dims, strict=True)]
    if not any(shift):
        return value * factor
    crossing = (
        shift[grams] == -shift[moles]
        and abs(shift[grams]) == 1
        and not any(s for i, s in enumerate(shift) if i not in (moles, grams))
    )
    if not crossing or substance is None or substance.molar_mass is None:
        return "unit-mismatch"
    return value * factor * substance.molar_mass ** (-shift[grams])


def _affine(value: float, found: Unit, wanted: Unit) -> float | str:
    if found.dims != wanted.dims:
        return "unit-mismatch"
    return (value * found.factor + found.offset - wanted.offset) / wanted.factor


def _hba1c(value: float, unit: str, target: str) -> float | str:
    """NGSP % and IFCC mmol/mol: both are ratios, so that a plain factor would be wrong."""
    scales = {"%": "ngsp", "mmol/mol": "ifcc"}
    have, want = (scales.get(_plain("".join(text.split()))) for text in (unit, target))
    if have is None or want is None:
        return "unit-mismatch"
    if have == want:
        return value
    return 0.09148 * value + 2.152 if have == "ifcc" else (value - 2.152) / 0.09148
