"""Plug-ins at this site: which are there, and what of them an approval binds. Reads files, runs nothing of theirs.

Place in the flow: policy asks which are installed; approvals ask for the digest of the one that a study names; the
worker alone loads it.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge.config import EdgeConfig
from edge.state import SiteState
from edge.studies import parsed
from pipelines import PluginPlace, plugins
from protocol.errors import InputError, PolicyRefused
from protocol.study import Study

__all__ = ["PluginCode", "installed", "place"]


def installed(config: EdgeConfig, study: Study) -> frozenset[str]:
    """`name==version` of the plug-ins that are there; none are looked for where the study names none."""
    return frozenset(plugins.found(config.plugins)) if study.pipeline.plugin else frozenset()


def place(config: EdgeConfig, study: Study) -> PluginPlace | None:
    """Where the worker finds the study's plug-in, and its digest now.

    Raises:
        PolicyRefused: `policy.plugin` when it is not there.
    """
    key = study.pipeline.plugin
    if key is None:
        return None
    plugin = plugins.found(config.plugins).get(key)
    if plugin is None or config.plugins is None:
        raise PolicyRefused("policy.plugin", f"plug-in {key!r} is not installed")
    return PluginPlace(root=str(config.plugins), key=key, digest=plugins.digest(plugin))


class PluginCode:
    """The plug-in that a received study names, for approvals."""

    def __init__(self, config: EdgeConfig, state: SiteState) -> None:
        self._config, self._state = config, state

    def digest(self, study_digest: str) -> str:
        """Of the plug-in as it is now, `absent`, or empty for a study without one."""
        key = self._key(study_digest)
        if key is None:
            return ""
        try:
            plugin = plugins.found(self._config.plugins).get(key)
            return "absent" if plugin is None else plugins.digest(plugin)
        except PolicyRefused:
            return "absent"

    def manifest(self, study_digest: str) -> Mapping[str, str]:
        """Its files and dependencies, for the steward; empty for a study without one.

        Raises:
            PolicyRefused: `policy.plugin` for a folder that cannot be a plug-in's.
        """
        key = self._key(study_digest)
        plugin = None if key is None else plugins.found(self._config.plugins).get(key)
        return {} if plugin is None else plugins.manifest(plugin)

    def _key(self, study_digest: str) -> str | None:
        record = self._state.study(study_digest)
        try:
            return None if record is None else parsed(record.assignment.document).pipeline.plugin
        except InputError:  # a document that is no study: it is refused when its turn comes
            return None
