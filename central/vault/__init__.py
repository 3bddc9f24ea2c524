"""The vault: the one process that holds study keys. It opens parcels into the curated lake and answers from it.

It listens on a unix socket only, never on the network. What it reads was written by a hospital: every parcel is
verified, opened and checked against its signed study again before a byte reaches the lake.
"""

from central.vault.analysis import Analysis
from central.vault.keys import StudyKeys
from central.vault.lake import Lake
from central.vault.opening import Opener

__all__ = ["Analysis", "Lake", "Opener", "StudyKeys"]
