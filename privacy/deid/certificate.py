"""What a run over several kinds of data can attest, gathered while it runs: counts, rules and codes, no value.

    certificate = Certificate(keys.key_id, profile, pixels)
    certificate.looked(look); certificate.passed(result); certificate.kept_back({"unreadable": 1})
    certificate.as_dict(table_report)

Only what ran is attested: an option that changes pixels is named when a picture was looked at or changed. Not here:
what is done, and whether it may leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy.deid.pixels import PixelCleaner, PixelPolicy, PixelVerdict

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from privacy.deid.dicom import Deidentified
    from privacy.deid.profiles import Profile
    from privacy.deid.residual import Look

__all__ = ["Certificate", "CountedCleaner"]

_PIXEL_OPTION = "clean-pixel-data"


class CountedCleaner(PixelCleaner):
    """A pixel cleaner that counts its verdicts."""

    def __init__(self, policy: PixelPolicy) -> None:
        super().__init__(policy)
        self.counts: Counter[str] = Counter()

    def clean(self, dataset: Dataset) -> PixelVerdict:
        """See `PixelCleaner.clean`."""
        verdict = super().clean(dataset)
        self.counts["looked"] += verdict.looked
        self.counts["changed"] += verdict.changed
        self.counts["boxes"] += len(verdict.boxes)
        if not verdict.ok:
            self.counts[f"refused-{verdict.reason}"] += 1
        return verdict


class Certificate:
    """Counts of one run.

    Args:
        key_id: of the key under which everything was made.
        profile: of the DICOM files.
        pixels: their cleaner, if one was asked for.
    """

    def __init__(self, key_id: str, profile: Profile, pixels: CountedCleaner | None) -> None:
        self._key_id, self._profile, self._pixels = key_id, profile, pixels
        self._actions: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._exclusions: Counter[str] = Counter()
        self._quarantine: Counter[str] = Counter()
        self._searched = self._files = 0

    def looked(self, look: Look) -> None:
        """Take in a second look, whatever it saw."""
        self._hits.update(look.hits)
        self._exclusions.update(look.exclusions)
        self._searched += look.searched

    def passed(self, result: Deidentified) -> None:
        """Take in a file that passed."""
        self._files += 1
        self._actions.update(result.counts)

    def kept_back(self, reasons: Mapping[str, int]) -> None:
        """Take in records and files that stay, by a fixed word."""
        self._quarantine.update(reasons)

    @property
    def pixels(self) -> dict[str, int]:
        """Pictures looked at and changed, boxes blanked, refusals by reason."""
        return {} if self._pixels is None else dict(sorted(self._pixels.counts.items()))

    def as_dict(self, table: Mapping[str, Any] | None) -> dict[str, Any]:
        """The certificate.

        Args:
            table: the report of the table engine, or None when there was no table.
        """
        options = set(self._profile.options) if self._files else set()
        if not (self.pixels.get("looked") or self.pixels.get("changed")):
            options.discard(_PIXEL_OPTION)
        made: dict[str, Any] = {
            "key_id": self._key_id,
            "profile": self._profile.name,
            "edition": self._profile.edition,
            "options": sorted(options),
            "actions": dict(sorted(self._actions.items())),
            "second_look": {
                "searched": self._searched,
                "hits": dict(sorted(self._hits.items())),
                "exclusions": dict(sorted(self._exclusions.items())),
            },
            "quarantine": dict(sorted(self._quarantine.items())),
        }
        if self._pixels is not None:
            made["pixels"] = self.pixels
        if table is not None:
            made |= {name: table[name] for name in ("k", "l", "t", "risk") if name in table}
        return made
