"""Private attributes that may stay under Retain Safe Private: by creator, group, element within its block, and VR.

A raw tag number says nothing: the block a creator reserved does. The allow-list is `profiles/safe_private.json`. Not
here: public attributes.

Source: PS3.5 section 7.8 (private blocks); PS3.15 section E.3.10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.deid import actions, elements
from privacy.deid.actions import Place

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["CREATOR", "keep", "safe_tags"]

CREATOR = "creator"
_FIRST_BLOCK, _LAST_BLOCK = 0x10, 0xFF
_MAX_BYTES = 64


def safe_tags(dataset: Dataset, allowed: dict[tuple[str, int, int], str]) -> dict[int, str]:
    """Tag -> the VR it is kept under (CREATOR for the creator of a block of which something is kept)."""
    creators: dict[tuple[int, int], str] = {}
    for tag in dataset.keys():
        group, element = tag >> 16, tag & 0xFFFF
        if group & 1 and _FIRST_BLOCK <= element <= _LAST_BLOCK:
            value = actions.raw_of(dataset.get_item(tag)).decode("ascii", "replace").strip(" \0")
            creators[group, element] = value
    kept: dict[int, str] = {}
    for tag in dataset.keys() if creators else ():
        group, element = tag >> 16, tag & 0xFFFF
        creator = creators.get((group, element >> 8)) if group & 1 else None
        vr = allowed.get((creator, group, element & 0xFF)) if creator else None
        if vr is not None:
            kept[tag] = vr
            kept[group << 16 | element >> 8] = CREATOR
    return kept


def keep(place: Place) -> None:
    """Leave one safe value as it stands if it is what the list says, else take it out. `place.vr` is the list's."""
    element, vr = place.element, place.vr
    if vr == CREATOR:
        return
    value = element.value or b""
    if not element.is_raw or element.VR not in (None, "UN", vr) or not 0 < len(value) <= _MAX_BYTES:
        place.remove()
    elif not _is(vr, value) or (vr == "CS" and place.walk.patient.deny.find(place.text)):
        place.remove()


def _is(vr: str, value: bytes) -> bool:
    """Whether bytes are a value of a representation that says nothing of anybody."""
    if vr in ("DS", "IS"):
        return elements.is_number(value)
    if vr == "CS":
        return elements.code_string_is_plain(value.decode("ascii", "replace").strip(" \0"))
    return vr in elements.NUMBERS and len(value) % elements.SIZE[vr] == 0
