"""Make `basic.json` (rules), `types.json` (attribute types) and `../lexicon/dicom.txt` (words); development time only.

    python -m privacy.deid.profiles.generate ../shared/data/dicom-ps3.15     (with highdicom installed)

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
# A text inside a sequence that the option cleans: without this the addition would dummy what the option keeps.
OWN_COLUMNS = {"00700006": {"clean-graphics": "C"}}
RANGES = {
    "50xxxxxx": "curve data",
    "60xx3000": "overlay data",
    "60xx4000": "overlay comments",
    "ggggeeee-where-gggg-is-odd": "private attributes",
}
_BREEDS = {7480, 7481}
_KINDS = frozenset({"1", "1C", "2", "2C", "3"})
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
            options = {word: row[key] for key, word in OPTIONS.items() if key in row} | OWN_COLUMNS.get(row["id"], {})
            table.append([row["id"], row["name"], row["basicProfile"], options, source])
    return sorted(table + OWN_ROWS, key=lambda row: str(row[0]))


def types(table: list[list[object]]) -> dict[str, object]:
    """Of highdicom's 22 MB: the types of the table's attributes where they decide something, by IOD, module and path.

    Paths are sequence tags, outermost first, 8 hex digits each; attributes likewise, in one string a type.
    """
    import highdicom
    from pydicom.datadict import tag_for_keyword

    folder = Path(highdicom.__file__).parent / "_standard"
    read = {
        name: json.loads((folder / f"{name}.json").read_text("utf-8"))
        for name in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    }
    actions = {int(str(row[0]), 16): str(row[2]) for row in table}
    modules, paths = {}, dict[str, int]()
    for module, attributes in read["module_attribute_map"].items():
        found: dict[int, dict[str, set[str]]] = {}
        for attribute in attributes:
            tag, kind = tag_for_keyword(attribute["keyword"]), attribute["type"]
            above = [tag_for_keyword(keyword) for keyword in attribute["path"]]
            if tag not in actions or kind not in _KINDS or None in above or not _decides(actions[tag], kind):
                continue
            path = paths.setdefault("".join(f"{one:08x}" for one in above), len(paths))
            found.setdefault(path, {}).setdefault(kind, set()).add(f"{tag:08x}")
        modules[module] = [
            [path, {kind: "".join(sorted(tags)) for kind, tags in sorted(kinds.items())}]
            for path, kinds in sorted(found.items())
        ]
    used = sorted(name for name, entries in modules.items() if entries)
    number = {name: i for i, name in enumerate(used)}
    iods = {
        sop: sorted(number[part["key"]] for part in read["iod_module_map"][iod] if part["key"] in number)
        for sop, iod in sorted(read["sop_class_iod_map"].items())
    }
    edition = f"highdicom {highdicom.__version__}"
    listed = [[name, modules[name]] for name in used]
    return {"edition": edition, "paths": list(paths), "modules": listed, "iods": iods}


def _decides(action: str, kind: str) -> bool:
    """Whether a type makes a difference: compound actions, and what may not be removed or emptied as said."""
    return "/" in action or (action == "X" and kind in ("1", "2", "2C")) or (action == "Z" and kind in ("1", "1C"))


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
    """Write the files."""
    kinds = json.dumps(types(rows(folder)), separators=(",", ":")).replace('],["', '],\n["').replace('],"', '],\n"')
    (HERE / "types.json").write_text(kinds + "\n", "utf-8")
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
