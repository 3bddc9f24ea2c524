"""Volumes in research formats (NIfTI, NRRD, MHA): one file into the same value as a DICOM series.

Read by SimpleITK, so directions are those of DICOM (left, posterior, superior), and scale factors of the file are
applied.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from pipelines.features.series import Series
from protocol.errors import ConfigurationError, InputError

__all__ = ["MAX_VOXELS", "read"]

MAX_VOXELS = 1 << 30  # 1024 slices of 1024 by 1024


def read(path: Path) -> Series:
    """A volume with its geometry; `uid`, `modality` and `instances` are empty.

    Raises:
        InputError: `input.image` for a file that is no single three-dimensional scalar volume with orthogonal axes.
        ConfigurationError: `config.extra-missing` without the extra `imaging`.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise ConfigurationError("config.extra-missing", "volumes need corsia[imaging]") from error
    quiet = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        head = SimpleITK.ImageFileReader()
        head.SetFileName(str(path))
        head.ReadImageInformation()  # a packed file of kilobytes may announce and hold terabytes
        if math.prod(head.GetSize()) * max(1, head.GetNumberOfComponents()) > MAX_VOXELS:
            raise InputError("input.image", f"{path}: more than {MAX_VOXELS} voxels")
        volume = SimpleITK.ReadImage(str(path))
    except RuntimeError:
        raise InputError("input.image", f"{path}: cannot be read as a volume") from None
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(quiet)
    while volume.GetDimension() > 3 and volume.GetSize()[-1] == 1:
        volume = volume[..., 0]
    if volume.GetDimension() != 3 or volume.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("input.image", f"{path}: not one three-dimensional scalar volume")
    voxels = SimpleITK.GetArrayFromImage(volume)
    if np.iscomplexobj(voxels):
        raise InputError("input.image", f"{path}: not one three-dimensional scalar volume")
    axes = np.array(volume.GetDirection()).reshape(3, 3)
    x, y, z = volume.GetSpacing()
    exact = voxels.dtype.kind in "iub" and voxels.dtype.itemsize <= 2
    return Series(
        uid="",
        modality="",
        voxels=voxels.astype(np.float32) if exact or voxels.dtype == np.float32 else voxels.astype(np.float64),
        spacing=(z, y, x),
        origin=np.array(volume.GetOrigin()),
        row=axes[:, 0],
        column=axes[:, 1],
        normal=axes[:, 2],
        instances=(),
    )
