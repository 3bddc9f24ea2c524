"""The DICOM engine: one recursive walk, one rule lookup an element, the same rules at every depth.

    engine = DicomEngine(Pseudonymizer(key), profile=load("basic", frozenset({"retain-longitudinal-modified-dates"})))
    result = engine.deidentify(data)            # data: the bytes of one file

The profile table decides first; what it does not name is decided by its value representation and never kept on
trust: private and unknown attributes go, names and AE titles become dummies, dates follow the date rule, UIDs are
remapped, text keeps only known words. Not here: looking for what is left (`residual.py`), pixels, files.

Source: PS3.15 annex E (Basic Application Level Confidentiality Profile and options); PS3.3 C.12.1.1.7 (marks).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privacy.deid import actions, documents, elements, graphics, part10, plainfile, vocabulary
from privacy.deid.actions import Patient, Place, Walk
from privacy.deid.deny import DenyList
from privacy.deid.graphics import PixelCleaner
from privacy.deid.private import keep as keep_private
from privacy.deid.private import safe_tags
from privacy.deid.profiles import EMPTY_DOCUMENTS, METHOD_CODES, Action, Profile, load
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.rules import Rulebook, names
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from privacy.deid.text import TextEngine

__all__ = ["Deidentified", "DicomEngine"]

_UNDEFINED = 0xFFFFFFFF
_MAX_UNKNOWN = 8  # bytes of a number under an unknown VR
_PATIENT_ID, _STUDY_INSTANCE, _METHOD = 0x00100020, 0x0020000D, 0x00120063
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
# Their values also go from texts of the same object: ids, contacts, places, devices, birth date.
_IDENTITY = frozenset(
    {0x00080050, 0x00080080, 0x00080081, 0x00081010, 0x00100020, 0x00100030, 0x00101000, 0x00101040, 0x00102154}
    | {0x00102155, 0x00181000, 0x00200010, 0x00380010, 0x00402016, 0x00402017}
)
# A registered UID, or one of the standard's root with parts too short to hold a number of someone.
_STANDARD = re.compile(r"1\.2\.840\.10008(?:\.[0-9]{1,5}){1,10}")
_MAX_PATIENTS, _MAX_UIDS = 64, 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deidentified:
    """One file that came out clean.

    Attributes:
        data: DICOM Part 10 bytes.
        sop_instance_uid: the new one, also in the file's head.
        pseudonym: of the patient, as in the tables of the same study.
        counts: how many elements met each action; no values.
    """

    data: bytes
    sop_instance_uid: str
    pseudonym: str
    counts: dict[str, int]


class DicomEngine:
    """De-identifies files one by one; its caches are bounded, so one engine serves a whole study.

    Args:
        pseudonymizer: of the study at this site.
        profile: default the basic profile without options.
        text: needed with the option `clean-descriptors`, used by the other cleaning options if given.
        pixels: needed with the option `clean-pixel-data`, not used otherwise but for overlays under `clean-graphics`.

    Raises:
        InputError: `input.usage` when an option asks for a text engine or a pixel cleaner and there is none.
    """

    def __init__(
        self,
        pseudonymizer: Pseudonymizer,
        *,
        profile: Profile | None = None,
        text: TextEngine | None = None,
        pixels: PixelCleaner | None = None,
    ) -> None:
        self.profile = profile or load()
        if "clean-descriptors" in self.profile.options and text is None:
            raise InputError("input.usage", "clean-descriptors needs a text engine")
        if "clean-pixel-data" in self.profile.options and pixels is None:
            raise InputError("input.usage", "clean-pixel-data needs a pixel cleaner")
        self._keys = pseudonymizer
        self._text = text
        self._pixels = pixels
        self._book = Rulebook(self.profile)
        # What an option keeps is no secret of the patient.
        self._identity = frozenset(tag for tag in _IDENTITY if self.profile.actions.get(tag) is not Action.KEEP)
        self._uids: dict[tuple[str, bool], str] = {}
        self._patients: OrderedDict[tuple[object, ...], Patient] = OrderedDict()

    def deidentify(self, data: bytes, known: Callable[[str], Iterable[str]] = lambda patient_id: ()) -> Deidentified:
        """De-identify one file.

        Args:
            data: the file's bytes.
            known: patient id -> values of his record elsewhere (table row) that must go from texts as well.

        Raises:
            InputError: `input.dicom` when it does not parse, `input.pixels` when its pixels may show identities,
                `input.deidentified` when it bears the mark of this key.
        """
        dataset = part10.parse(data)
        with part10.guarded():
            self._refuse_own(dataset)
            sop_class = part10.uid_at(dataset, _SOP_CLASS)
            emptied = EMPTY_DOCUMENTS in self.profile.options and documents.can_empty(sop_class)
            charset = actions.charset_of(dataset, ("iso8859",))
            patient = self._patient(dataset, charset, known)
            cleaned = self._clean_pixels(dataset, emptied)
            walk = Walk(patient=patient, charset=charset, into=self._into, uid=self._uid, describe=self._describe)
            walk.sop_class = sop_class
            if "clean-graphics" in self.profile.options:
                walk.overlays = graphics.safe_overlays(dataset, self._pixels)
            self._walk(dataset, walk)
            if emptied:
                documents.empty(dataset)
            pseudonym = self._keys.pseudonym(patient.key)
            self._mark(dataset, pseudonym, cleaned, emptied)
            return Deidentified(
                data=part10.serialise(dataset),
                sop_instance_uid=part10.uid_at(dataset, _SOP_INSTANCE),
                pseudonym=pseudonym,
                counts=dict(walk.counts),
            )

    def _refuse_own(self, dataset: Dataset) -> None:
        """A second run under the same key would map again what is mapped. The mark is no proof, so it is no pass."""
        method: Any = dataset._dict.get(_METHOD)
        if method is not None and f"key {self._keys.key_id}".encode() in actions.raw_of(method):
            raise InputError("input.deidentified")

    def _clean_pixels(self, dataset: Dataset, emptied: bool) -> bool:
        """Clean the pixels if that is asked for; return whether they were looked at or changed."""
        asked = "clean-pixel-data" in self.profile.options and part10.has_pixels(dataset)
        part10.check_risk(dataset, cleaned=asked, emptied=emptied)
        if not asked or self._pixels is None:
            return False
        verdict = self._pixels.clean(dataset)
        if not verdict.ok:
            raise InputError("input.pixels", verdict.reason)
        return verdict.looked or verdict.changed

    # -- the walk

    def _walk(self, dataset: Dataset, walk: Walk) -> None:
        book, sop_class, path, counts = self._book, walk.sop_class, walk.path, walk.counts
        rules = book.at(sop_class, path)
        safe = self.profile.safe_private
        private = safe_tags(dataset, safe) if safe and not walk.dummy else {}
        held: dict[int, Any] = dataset._dict
        for tag, element in list(held.items()):
            rule = rules.get(tag) or book.rule(rules, sop_class, path, tag)
            handler, vr, allowed, named, limit, unsure = rule
            if handler is actions.remove:
                if tag in private:
                    self._whole(element)
                    keep_private(Place(dataset, tag, element, private[tag], False, walk))
                elif path or tag >> 16 not in walk.overlays or tag & 0xFFFF not in graphics.KEPT:
                    counts["private" if tag & 0x10000 else "removed"] += 1
                    del held[tag]
                continue
            self._whole(element)
            if unsure:
                counts["type-unknown"] += 1
            if handler is actions.keep and element.VR in allowed and not walk.dummy:
                if limit and element.is_raw and element.length > limit:
                    Place(dataset, tag, element, vr, named, walk).remove()
                continue
            place = Place(dataset, tag, element, vr, named, walk)
            odd = element.VR is not None and element.VR not in allowed
            if odd and not _resolved(place):
                place.remove()
            elif walk.dummy:
                actions.dummy_leaf(place)
            else:
                handler(place)

    def _whole(self, element: Any) -> None:
        if element.is_raw and element.length != _UNDEFINED and element.length != len(element.value or b""):
            raise InputError("input.dicom", "an element is shorter than its length")

    def _into(self, place: Place) -> None:
        walk, outer, path = place.walk, place.walk.charset, place.walk.path
        walk.path = (*path, place.tag)
        plainfile.expand(place.dataset, place.tag)
        for item in place.dataset[place.tag].value or ():
            walk.charset = actions.charset_of(item, outer)
            self._walk(item, walk)
        walk.charset, walk.path = outer, path

    # -- what the engine lends to the actions

    def _uid(self, uid: str, named: bool) -> str:
        mapped = self._uids.get((uid, named))
        if mapped is None:
            from pydicom.uid import UID_dictionary

            standard = uid in UID_dictionary or (not named and _STANDARD.fullmatch(uid) is not None)
            if len(self._uids) > _MAX_UIDS:
                self._uids.clear()
            self._uids[uid, named] = mapped = uid if standard or not uid else self._keys.uid(uid)
        return mapped

    def _describe(self, text: str, patient: Patient) -> str:
        if self._text is not None:
            text = self._text.redact(text, deny=patient.deny, shift_days=patient.shift)[0]
        return vocabulary.clean(text, patient.deny)

    def _patient(
        self, dataset: Dataset, charset: tuple[str, ...] | None, known: Callable[[str], Iterable[str]]
    ) -> Patient:
        def value(tag: int) -> str:
            element = held.get(tag)
            return actions.decoded(actions.raw_of(element), charset) if element is not None else ""

        held: dict[int, Any] = dataset._dict

        patient_id = value(_PATIENT_ID)
        owner = patient_id or f"study {value(_STUDY_INSTANCE) or value(_SOP_INSTANCE)}"
        elsewhere = tuple(known(patient_id)) if patient_id else ()
        own = tuple(value(tag) for tag in held if tag in self._identity or tag in names())
        key = (owner, elsewhere, own)
        patient = self._patients.get(key)
        if patient is None:
            patient = Patient(owner, self._keys.shift_days(owner), DenyList([*own, *elsewhere]))
            self._patients[key] = patient
            if len(self._patients) > _MAX_PATIENTS:
                self._patients.popitem(last=False)
        return patient

    def _mark(self, dataset: Dataset, pseudonym: str, cleaned: bool, emptied: bool) -> None:
        """Put the pseudonym in, and say what was done: only what ran is claimed."""
        options = self.profile.options
        method = ["Corsia 1", f"PS3.15 {self.profile.name} {self.profile.edition}", f"key {self._keys.key_id}"]
        dates = "REMOVED"
        if "retain-longitudinal-modified-dates" in options:
            dates = "MODIFIED"
        elif "retain-longitudinal-full-dates" in options:
            dates = "UNMODIFIED"
        codes = [one for one in self.profile.codes if cleaned or one != METHOD_CODES["clean-pixel-data"]]
        marks = [
            (0x00100010, "PN", pseudonym),
            (0x00100020, "LO", pseudonym),
            (0x00120062, "CS", "YES"),
            (0x00120063, "LO", "\\".join([*method, "document emptied"] if emptied else method)),
            (0x00280303, "CS", dates),
        ]
        for tag, vr, text in marks:
            actions.put(dataset, tag, vr, elements.padded(text.encode("ascii")))
        actions.put(dataset, 0x00120064, "SQ", part10.code_items(tuple(codes), "DCM", *dataset.original_encoding))


def _resolved(place: Place) -> bool:
    """Make sense of an element whose VR is not the dictionary's; False to remove it. UN is always little endian."""
    element, vr = place.element, place.vr
    if vr == "SQ":
        return bool(element.VR == "UN" and place.dataset[place.tag].VR == "SQ")
    if element.VR == "SQ" or vr in elements.BULK:
        return False
    if element.VR != "UN" or not element.is_raw:
        # Actions that write a value of their own need none of the file's.
        return place.named and vr not in elements.NUMBERS
    value = element.value or b""
    if vr in elements.NUMBERS:
        if not element.is_little_endian or len(value) % elements.SIZE[vr] or len(value) > _MAX_UNKNOWN:
            return False
    place.put(value)
    place.element = place.dataset.get_item(place.tag)
    return True
