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

from privacy.deid import actions, elements, part10, vocabulary
from privacy.deid.actions import Handler, Patient, Place, Walk
from privacy.deid.deny import DenyList
from privacy.deid.profiles import Action, Profile, load
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from privacy.deid.text import TextEngine

__all__ = ["Deidentified", "DicomEngine"]

_UNDEFINED = 0xFFFFFFFF
_PATIENT_ID, _STUDY_INSTANCE, _SOP_INSTANCE = 0x00100020, 0x0020000D, 0x00080018
_SPECIAL: dict[int, Handler] = {
    0x00080005: actions.character_set,
    0x00080100: actions.code_value,
    0x00080102: actions.scheme,
    0x00080201: actions.time_zone,
}
_BY_VR: dict[str, Handler] = {
    "SQ": actions.recurse,
    "UI": actions.remap,
    "PN": actions.dummy,
    "AE": actions.dummy,
    "CS": actions.code_string,
    "AS": actions.age,
    "DS": actions.number,
    "IS": actions.number,
}
_NEVER_GROUPS = frozenset({0x0000, 0x0002, 0x0004, 0xFFFC, 0xFFFE})
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
        text: needed with the option `clean-descriptors`, not used otherwise.

    Raises:
        InputError: `input.usage` when the option asks for a text engine and there is none.
    """

    def __init__(
        self, pseudonymizer: Pseudonymizer, *, profile: Profile | None = None, text: TextEngine | None = None
    ) -> None:
        self.profile = profile or load()
        if "clean-descriptors" in self.profile.options and text is None:
            raise InputError("input.usage", "clean-descriptors needs a text engine")
        self._keys = pseudonymizer
        self._text = text
        self._rules: dict[int, tuple[Handler, str, frozenset[str], bool]] = {}
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
            InputError: `input.dicom` when it does not parse, `input.pixels` when its pixels may show identities.
        """
        dataset = part10.parse(data)
        with part10.guarded():
            part10.check_risk(dataset)
            charset = actions.charset_of(dataset, ("iso8859",))
            patient = self._patient(dataset, charset, known)
            walk = Walk(patient=patient, charset=charset, into=self._into, uid=self._uid, describe=self._describe)
            self._walk(dataset, walk)
            pseudonym = self._keys.pseudonym(patient.key)
            self._mark(dataset, pseudonym)
            return Deidentified(
                data=part10.serialise(dataset),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                pseudonym=pseudonym,
                counts=dict(walk.counts),
            )

    # -- the walk

    def _walk(self, dataset: Dataset, walk: Walk) -> None:
        rules = self._rules
        for tag in list(dataset.keys()):
            handler, vr, allowed, named = rules.get(tag) or self._rule(tag)
            if handler is actions.remove:
                walk.counts["private" if tag & 0x10000 else "removed"] += 1
                del dataset[tag]
                continue
            element: Any = dataset.get_item(tag)
            if element.is_raw and element.length != _UNDEFINED and element.length != len(element.value or b""):
                raise InputError("input.dicom", "an element is shorter than its length")
            if handler is actions.keep and element.VR in allowed and not walk.dummy:
                continue
            place = Place(dataset, tag, element, vr, named, walk)
            odd = element.VR is not None and element.VR not in allowed
            if odd and (handler is actions.keep or not _resolved(place)):
                place.remove()
            elif walk.dummy:
                actions.dummy_leaf(place)
            else:
                handler(place)

    def _into(self, place: Place) -> None:
        walk, outer = place.walk, place.walk.charset
        for item in place.dataset[place.tag].value or ():
            walk.charset = actions.charset_of(item, outer)
            self._walk(item, walk)
        walk.charset = outer

    # -- from profile and dictionary to one rule a tag

    def _rule(self, tag: int) -> tuple[Handler, str, frozenset[str], bool]:
        from pydicom.datadict import DicomDictionary

        action, entry, group = self.profile.actions.get(tag), DicomDictionary.get(tag), tag >> 16
        if group & 1 or tag & 0xFFFF == 0 or group >> 8 in (0x50, 0x60) or group in _NEVER_GROUPS or entry is None:
            # Private tags are not remembered: a hostile file could name millions.
            return actions.remove, "UN", frozenset(), False
        allowed = entry[0].split(" or ")
        vr = allowed[0]
        family = elements.FAMILY.get(vr)
        accepted = frozenset(allowed) | {v for v, name in elements.FAMILY.items() if name == family}
        handler = self._by_action(action, tag, vr) if action else self._by_representation(tag, vr)
        rule = (handler, vr, accepted, action is not None)
        self._rules[tag] = rule
        return rule

    def _by_action(self, action: Action, tag: int, vr: str) -> Handler:
        if action in (Action.REMOVE, Action.EMPTY):
            return actions.remove if action is Action.REMOVE else actions.empty
        if action is Action.DUMMY:
            return {"SQ": actions.dummy_sequence, "UI": actions.remap}.get(vr, actions.dummy)
        if action is Action.REMAP:
            return {"SQ": actions.recurse, "UI": actions.remap}.get(vr, actions.dummy)
        if vr in elements.TEXT and tag not in _SPECIAL:
            return actions.describe if action is Action.CLEAN else actions.name_out
        if action is Action.CLEAN and vr == "CS":
            return actions.code_words
        if action is Action.KEEP and vr in ("UI", "PN", "AE"):
            return actions.keep_uid if vr == "UI" else actions.name_out
        return self._by_representation(tag, vr)

    def _by_representation(self, tag: int, vr: str) -> Handler:
        """The backstop, for what the table does not name and for what an option keeps."""
        if tag in _SPECIAL:
            return _SPECIAL[tag]
        if vr in elements.BULK:
            return actions.keep if tag >> 16 in elements.BULK_GROUPS else actions.remove
        if vr in elements.NUMBERS:
            return actions.keep
        if vr in elements.TEXT:
            return actions.words
        if vr in elements.DATES:
            if "retain-longitudinal-modified-dates" in self.profile.options:
                return actions.shift_dates
            return actions.keep_dates if "retain-longitudinal-full-dates" in self.profile.options else actions.dummy
        return _BY_VR.get(vr, actions.remove)

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
            return actions.decoded(actions.raw_of(dataset.get_item(tag)), charset) if tag in dataset else ""

        patient_id = value(_PATIENT_ID)
        owner = patient_id or f"study {value(_STUDY_INSTANCE) or value(_SOP_INSTANCE)}"
        elsewhere = tuple(known(patient_id)) if patient_id else ()
        own = tuple(value(tag) for tag in list(dataset.keys()) if tag in self._identity or self._is_name(tag))
        key = (owner, elsewhere, own)
        patient = self._patients.get(key)
        if patient is None:
            patient = Patient(owner, self._keys.shift_days(owner), DenyList([*own, *elsewhere]))
            self._patients[key] = patient
            if len(self._patients) > _MAX_PATIENTS:
                self._patients.popitem(last=False)
        return patient

    def _is_name(self, tag: int) -> bool:
        from pydicom.datadict import DicomDictionary

        entry = DicomDictionary.get(tag)
        return entry is not None and entry[0] == "PN"

    def _mark(self, dataset: Dataset, pseudonym: str) -> None:
        """Put the pseudonym in, and say what was done: only what ran is claimed."""
        from pydicom.dataset import Dataset as NewDataset
        from pydicom.sequence import Sequence

        options = self.profile.options
        dataset.add_new(0x00100010, "PN", pseudonym)
        dataset.add_new(0x00100020, "LO", pseudonym)
        dataset.add_new(0x00120062, "CS", "YES")
        method = ["Corsia 1", f"PS3.15 {self.profile.name} {self.profile.edition}", f"key {self._keys.key_id}"]
        dataset.add_new(0x00120063, "LO", method)
        items = []
        for value, meaning in self.profile.codes:
            item = NewDataset()
            item.add_new(0x00080100, "SH", value)
            item.add_new(0x00080102, "SH", "DCM")
            item.add_new(0x00080104, "LO", meaning)
            items.append(item)
        dataset.add_new(0x00120064, "SQ", Sequence(items))
        dates = "REMOVED"
        if "retain-longitudinal-modified-dates" in options:
            dates = "MODIFIED"
        elif "retain-longitudinal-full-dates" in options:
            dates = "UNMODIFIED"
        dataset.add_new(0x00280303, "CS", dates)


def _resolved(place: Place) -> bool:
    """Make sense of an element whose VR is not the dictionary's; False to remove it. UN is always little endian."""
    element, vr = place.element, place.vr
    if vr == "SQ":
        return bool(element.VR == "UN" and place.dataset[place.tag].VR == "SQ")
    if element.VR == "SQ":
        return False
    if element.VR != "UN" or not element.is_raw:
        # Actions that write a value of their own need none of the file's.
        return place.named
    place.put(element.value or b"")
    place.element = place.dataset.get_item(place.tag)
    return True
