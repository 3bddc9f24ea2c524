"""Make `basic.json` (the rule table) and `../lexicon/dicom.txt` (the standard's words); run at development time only.

    python -m privacy.deid.profiles.generate ../shared/data/dicom-ps3.15

A newer edition of the standard is a new data file made by this script, never an edit. See NOTICE for the sources.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
EDITION = "2025-01 + 2026c additions"
OPTIONS = {
    "rtnLongFullDatesOpt": "retain-longitudinal-full-dates",
    "rtnLongModifDatesOpt": "retain-longitudinal-modified-dates",
    "cleanDescOpt": "clean-descriptors",
    "rtnUIDsOpt": "retain-uids",
    "rtnDevIdOpt": "retain-device-identity",
    "rtnPatCharsOpt": "retain-patient-characteristics",
    "rtnInstIdOpt": "retain-institution-identity",
    "cleanGraphOpt": "clean-graphics",
    "cleanStructContOpt": "clean-structured-content",
    "rtnSafePrivOpt": "retain-safe-private",
}
OWN_ROWS = [
    ["04000500", "Encrypted Attributes Sequence", "X", {}, "corsia"],
    ["00880200", "Icon Image Sequence", "X", {}, "corsia"],
]
RANGES = {
    "50xxxxxx": "curve data",
    "60xx3000": "overlay data",
    "60xx4000": "overlay comments",
    "ggggeeee-where-gggg-is-odd": "private attributes",
}
_BREEDS = {7480, 7481}
_WORD = re.compile(r"[^\W\d_]{2,}")


def rows(folder: Path) -> list[list[object]]:
    """All rows that name one tag: [id, name, action, {option: action}, source]."""
    table = []
    for name, source in (
        ("confidentiality_profile_attributes.json", "2025-01"),
        ("e11_additions_2026c.json", "2026c"),
    ):
        for row in json.loads((folder / name).read_text("utf-8")):
            if row["id"] in RANGES:
                continue
            options = {word: row[key] for key, word in OPTIONS.items() if key in row}
            table.append([row["id"], row["name"], row["basicProfile"], options, source])
    return sorted(table + OWN_ROWS, key=lambda row: str(row[0]))


def words() -> list[str]:
    """The words of the standard's attribute, UID and concept names, case folded, without personal names."""
    from pydicom.datadict import DicomDictionary
    from pydicom.sr._concepts_dict import concepts
    from pydicom.uid import UID_dictionary

    texts = [entry[2] for entry in DicomDictionary.values()] + [entry[0] for entry in UID_dictionary.values()]
    for scheme in concepts.values():
        for codes in scheme.values():
            texts += [meaning for meaning, cids in codes.values() if not cids or not set(cids) <= _BREEDS]
    found = {word.casefold() for text in texts for word in _WORD.findall(text)}
    return sorted(found - _names())


def _names() -> set[str]:
    import codicefiscale

    given = json.loads((Path(codicefiscale.__file__).parent / "data" / "names.json").read_text("utf-8"))
    names = {part for sex in given.values() for name in sex for part in name.casefold().split()}
    for file in ("surnames.txt", "given.txt"):
        lines = (HERE.parent / "lexicon" / file).read_text("utf-8").splitlines()
        names |= {word.casefold() for line in lines if not line.startswith("#") for word in line.split()}
    return names - {"may", "sole", "re", "li", "hu", "lin", "ion", "bell", "green", "hill", "hall", "ward"}


def main(folder: Path) -> None:
    """Write both files."""
    head = json.dumps({"edition": EDITION, "profile": "basic", "ranges": RANGES}, indent=1)[:-2]
    body = ",\n".join("  " + json.dumps(row, ensure_ascii=True) for row in rows(folder))
    (HERE / "basic.json").write_text(f'{head},\n "rows": [\n{body}\n ]\n}}\n', "utf-8")
    lines = ["# Words of DICOM PS3.6 and PS3.16; made by profiles/generate.py, see profiles/NOTICE."]
    for word in words():
        if lines[-1].startswith("#") or len(lines[-1]) + len(word) > 110:
            lines.append(word)
        else:
            lines[-1] += " " + word
    (HERE.parent / "lexicon" / "dicom.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
