"""What the DICOM engine does to one element: one function an action, none of which keeps a value on trust.

`dicom.py` chooses the action by tag and walks; here a `Place` is one element met on that walk. Elements are replaced
as raw bytes wherever possible, so that nothing is decoded that need not be. Not here: rules, files, pixels.

Source: PS3.15 annex E; PS3.5 sections 6.1 (character sets) and 6.2 (VRs).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from privacy.deid import elements, vocabulary
from privacy.deid.deny import DenyList

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Handler", "Patient", "Place", "Walk", "charset_of", "decoded", "put", "raw_of"]

Charset = tuple[str, ...] | None
_CHARSET, _SCHEME = 0x00080005, 0x00080102
# What a content item or a graphic is made of says nothing of anybody, and nothing else is valid there.
_STRUCTURE: dict[int, frozenset[str]] = {
    0x0040A040: frozenset(
        "TEXT NUM CODE DATE TIME DATETIME UIDREF PNAME COMPOSITE IMAGE WAVEFORM CONTAINER TABLE".split()
    )
    | frozenset({"SCOORD", "SCOORD3D", "TCOORD"}),
    0x0040A010: frozenset(
        {"CONTAINS", "HAS OBS CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES", "HAS ACQ CONTEXT", "INFERRED FROM"}
        | {"SELECTED FROM"}
    ),
    0x0040A050: frozenset({"SEPARATE", "CONTINUOUS"}),
    0x00700023: frozenset("POINT POLYLINE INTERPOLATED CIRCLE ELLIPSE MULTIPOINT POLYGON ELLIPSOID".split()),
    0x00700005: frozenset({"PIXEL", "DISPLAY", "MATRIX"}),
}
_MAX_CACHED = 20_000


@dataclass(slots=True)
class Patient:
    """What is known of the patient of one file, and texts already cleaned for him. `key` never leaves the process."""

    key: str
    shift: int
    deny: DenyList
    texts: dict[tuple[str, bytes, Charset], bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Walk:
    """One file's walk: where it is, and what the engine lends to the actions.

    Attributes:
        charset: of the nearest enclosing dataset (Python codec names); None when it is not a known one.
        dummy: inside a sequence that is replaced by a dummy.
        into: walks all items of the sequence at a place.
        uid: (original, named by the table) -> the UID to write.
        describe: cleans a descriptor with the text engine.
        sop_class: of the object, whose attribute types decide.
        path: of the sequences around the current dataset.
        overlays: groups of the overlays that stay.
    """

    patient: Patient
    charset: Charset
    into: Callable[[Place], None]
    uid: Callable[[str, bool], str]
    describe: Callable[[str, Patient], str]
    counts: Counter[str] = field(default_factory=Counter)
    dummy: bool = False
    sop_class: str = ""
    path: tuple[int, ...] = ()
    overlays: frozenset[int] = frozenset()


class Place:
    """One element of one dataset on the walk. `vr` is the dictionary's, not what the file claims."""

    __slots__ = ("dataset", "element", "named", "tag", "vr", "walk")

    def __init__(self, dataset: Dataset, tag: int, element: Any, vr: str, named: bool, walk: Walk) -> None:
        self.dataset, self.tag, self.element, self.vr, self.named, self.walk = dataset, tag, element, vr, named, walk

    @property
    def raw(self) -> bytes:
        """The value as bytes; of an element that is decoded already, its text."""
        return raw_of(self.element)

    @property
    def text(self) -> str:
        """The value of a representation that only knows ASCII, without padding."""
        return self.raw.decode("ascii", "replace").strip(" \0")

    def put(self, value: bytes) -> None:
        """Replace the value."""
        put(self.dataset, self.tag, self.vr, value)

    def remove(self) -> None:
        """Take the element out."""
        self.walk.counts["removed"] += 1
        del self.dataset._dict[self.tag]

    def rewrite(self, how: str, clean: Callable[[str], str]) -> None:
        """Clean each value of a text; a value of which nothing is left becomes a dummy, since it may be required."""
        raw, walk = self.raw, self.walk
        if not raw.strip(b" \0"):
            return
        key = (how, raw, walk.charset)
        new = walk.patient.texts.get(key)
        if new is None:
            text = decoded(raw, walk.charset)
            values = [text] if self.vr in elements.SINGLE_VALUED else text.split("\\")
            cleaned = [clean(value) or ("ANON" if value.strip() else "") for value in values]
            new = elements.padded(_encoded("\\".join(cleaned), walk.charset))
            if len(walk.patient.texts) > _MAX_CACHED:
                walk.patient.texts.clear()
            walk.patient.texts[key] = new
        if new != raw:
            walk.counts["text"] += 1
            self.put(new)


Handler = Callable[[Place], None]


def put(dataset: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Set an element to bytes in the dataset's encoding."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import BaseTag

    implicit, little = dataset.original_encoding
    if implicit is None or little is None:
        implicit, little = False, True
    tag = BaseTag(tag)
    dataset._dict[tag] = RawDataElement(tag, None if implicit else vr, len(value), value, 0, implicit, little)


def raw_of(element: Any) -> bytes:
    """An element's value as bytes, whether or not it has been decoded."""
    if element.is_raw:
        return element.value or b""
    value = element.value
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value).encode("utf-8")
    return "\\".join(str(part) for part in value).encode("utf-8")


def charset_of(dataset: Dataset, outer: Charset) -> Charset:
    """Python codecs of a dataset's Specific Character Set; None when it names one that is not known."""
    element = dataset._dict.get(_CHARSET)
    if element is None:
        return outer
    from pydicom.charset import python_encoding

    terms = [term.strip(" \0") for term in raw_of(element).decode("ascii", "replace").split("\\")]
    if any(term not in python_encoding for term in terms):
        return None
    return tuple(python_encoding[term] for term in terms)


def decoded(raw: bytes, charset: Charset) -> str:
    """Text of a value; bytes that do not fit the character set become replacement characters."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii").strip(" \0")
    if charset is None:
        return raw.decode("latin-1").strip(" \0")
    from pydicom.charset import decode_bytes
    from pydicom.valuerep import TEXT_VR_DELIMS

    return str(decode_bytes(raw, list(charset), TEXT_VR_DELIMS)).strip(" \0")


def _encoded(text: str, charset: Charset) -> bytes:
    if text.isascii():
        return text.encode("ascii")
    if charset is None:
        return text.encode("ascii", "ignore")
    from pydicom.charset import encode_string

    return bytes(encode_string(text, list(charset)))


# -- actions


def keep(place: Place) -> None:
    """Numbers and pictures that the table does not name."""


def remove(place: Place) -> None:
    """X."""
    place.remove()


def empty(place: Place) -> None:
    """Z."""
    place.walk.counts["emptied"] += 1
    if place.vr == "SQ":
        from pydicom.sequence import Sequence

        place.dataset.add_new(place.tag, "SQ", Sequence())
    else:
        place.put(b"")


def dummy(place: Place) -> None:
    """D, for anything but sequences and UIDs."""
    place.walk.counts["dummy"] += 1
    place.put(elements.DUMMY.get(place.vr, b""))


def dummy_sequence(place: Place) -> None:
    """D for a sequence: one item of the same shape, every value in it a dummy."""
    walk = place.walk
    items = place.dataset[place.tag].value
    if len(items) > 1:
        del items[1:]
    outer, walk.dummy = walk.dummy, True
    walk.into(place)
    walk.dummy = outer


def dummy_leaf(place: Place) -> None:
    """Whatever stands inside a dummied sequence."""
    if place.vr == "SQ":
        place.walk.into(place)
    elif place.vr == "UI":
        remap(place)
    elif place.tag == _CHARSET:
        character_set(place)
    elif place.vr in elements.BULK or place.vr == "UN":
        place.remove()
    elif place.vr == "CS":
        if place.text not in _STRUCTURE.get(place.tag, ()):
            code_words(place)
    else:
        place.walk.counts["dummy"] += 1
        place.put(elements.zeros(place.vr, place.raw))


def recurse(place: Place) -> None:
    """A sequence: the same rules in its items."""
    place.walk.into(place)


def remap(place: Place) -> None:
    """U: every UID but those of the standard."""
    place.walk.counts["uid"] += 1
    uids = [place.walk.uid(uid.strip(" \0"), place.named) for uid in place.text.split("\\")]
    place.put(elements.padded("\\".join(uids).encode("ascii"), b"\0"))


def keep_uid(place: Place) -> None:
    """K for a UID, if it is one."""
    if any(set(uid) - set("0123456789.") or len(uid) > 64 for uid in place.text.split("\\")):
        remap(place)


def words(place: Place) -> None:
    """Text that the table does not name: known words stay."""
    place.rewrite("words", lambda text: vocabulary.clean(text, place.walk.patient.deny))


def name_out(place: Place) -> None:
    """K for text: as it is, but for the patient himself."""
    place.rewrite("name-out", lambda text: place.walk.patient.deny.replace(text).strip())


def describe(place: Place) -> None:
    """C for text: the text engine, then known words only."""
    place.rewrite("describe", lambda text: place.walk.describe(text, place.walk.patient))


def shift_dates(place: Place) -> None:
    """C for dates: moved by the patient's days; what is no date becomes a dummy."""
    _each_date(place, lambda text: elements.shifted(place.vr, text, place.walk.patient.shift))


def keep_dates(place: Place) -> None:
    """K for dates, if they are dates."""
    _each_date(place, lambda text: elements.kept_date(place.vr, text))


def _each_date(place: Place, change: Callable[[str], str | None]) -> None:
    text = place.text
    if not text:
        return
    place.walk.counts["date"] += 1
    values = [change(value.strip()) if value.strip() else "" for value in text.split("\\")]
    if any(value is None for value in values):
        place.put(elements.DUMMY[place.vr])
    else:
        place.put(elements.padded("\\".join(value or "" for value in values).encode("ascii")))


def number(place: Place) -> None:
    """DS and IS: numbers stay, anything else goes."""
    if not elements.is_number(place.raw):
        place.remove()


def age(place: Place) -> None:
    """AS that an option keeps: top-coded."""
    new = elements.age(place.text).encode("ascii")
    if not new:
        place.remove()
    elif new != place.raw:
        place.put(new)


def code_string(place: Place) -> None:
    """CS: defined terms stay, anything that looks like a name or number of someone goes."""
    deny = place.walk.patient.deny
    values = place.text.split("\\")
    plain = [elements.code_string_is_plain(one) and not deny.find(one.replace("_", " ")) for one in values]
    if all(plain):
        return
    if any(good and value for good, value in zip(plain, values, strict=True)):
        kept = [value if good else "ANON" for good, value in zip(plain, values, strict=True)]
        place.put(elements.padded("\\".join(kept).encode("ascii")))
    else:
        place.remove()


def code_words(place: Place) -> None:
    """C for a CS: only terms made of known words."""
    plain = place.text.replace("_", " ").replace("\\", " ")
    if vocabulary.clean(plain, place.walk.patient.deny) == plain:
        code_string(place)
    else:
        dummy(place)


def code_value(place: Place) -> None:
    """Code Value: stays in the form of its coding scheme."""
    dataset = place.dataset
    scheme = raw_of(dataset.get_item(_SCHEME)).decode("ascii", "replace").strip(" \0") if _SCHEME in dataset else ""
    if not elements.code_is_standard(scheme, place.text) or place.walk.patient.deny.find(place.text):
        dummy(place)


def scheme(place: Place) -> None:
    """Coding Scheme Designator: a known one, or a dummy private one."""
    if not elements.scheme_is_known(place.text):
        place.put(b"99ANON")


def time_zone(place: Place) -> None:
    """Timezone Offset From UTC, where dates are kept or moved: an offset or nothing."""
    if re.fullmatch(r"[+-][01]\d[0-5]\d", place.text) is None:
        place.remove()


def character_set(place: Place) -> None:
    """Specific Character Set: kept if known; else removed, and text of this dataset is written in ASCII."""
    if charset_of(place.dataset, ()) is None:
        place.remove()
