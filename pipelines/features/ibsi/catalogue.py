"""What each radiomic feature is: a definition and a unit for every tag, from which the extractor's schema follows.

A tag is family, feature and, for textures, the way in which matrices were added up. Intensities have the unit of the
image (Hounsfield units for CT), written `{intensity}`; grey levels and counts are pure numbers.

Source: Zwanenburg et al., Image biomarker standardisation initiative, arXiv 1612.07003, section 3.
"""

from __future__ import annotations

from pipelines.features.schema import Feature

__all__ = ["PLAIN", "feature"]

_SOURCE = "IBSI-1, arXiv 1612.07003"
_I = "{intensity}"
_MORPHOLOGY = {
    "volume": ("volume enclosed by the surface mesh", "mm3"),
    "vol_approx": ("number of voxels times the volume of a voxel", "mm3"),
    "area_mesh": ("area of the surface mesh", "mm2"),
    "av": ("surface area over volume", "/mm"),
    "comp_1": ("compactness 1", "1"),
    "comp_2": ("compactness 2", "1"),
    "sph_dispr": ("spherical disproportion", "1"),
    "sphericity": ("sphericity", "1"),
    "asphericity": ("asphericity", "1"),
    "com": ("distance of the centres of mass of shape and intensities", "mm"),
    "diam": ("largest distance of two vertices of the mesh", "mm"),
    "pca_maj_axis": ("major axis length by principal components", "mm"),
    "pca_min_axis": ("minor axis length by principal components", "mm"),
    "pca_least_axis": ("least axis length by principal components", "mm"),
    "pca_elongation": ("minor over major axis length", "1"),
    "pca_flatness": ("least over major axis length", "1"),
    "vol_dens_aabb": ("volume over that of the axis-aligned bounding box", "1"),
    "area_dens_aabb": ("area over that of the axis-aligned bounding box", "1"),
    "vol_dens_aee": ("volume over that of the enclosing ellipsoid by principal axes", "1"),
    "area_dens_aee": ("area over that of the enclosing ellipsoid by principal axes", "1"),
    "vol_dens_conv_hull": ("volume over that of the convex hull", "1"),
    "area_dens_conv_hull": ("area over that of the convex hull", "1"),
    "integ_int": ("mean intensity times volume", "{intensity}.mm3"),
    "moran_i": ("Moran's I of the intensities, weighted by inverse distance", "1"),
    "geary_c": ("Geary's C of the intensities, weighted by inverse distance", "1"),
}
_LOCAL = {
    "peak_loc": ("mean in a sphere of 1 cm3 around the voxel of highest intensity", _I),
    "peak_glob": ("highest mean in a sphere of 1 cm3 around any voxel of the region", _I),
}
_VOLUME_HISTOGRAM = {
    "v10": ("fraction of the volume at or above 10 % of the intensity range", "1"),
    "v90": ("fraction of the volume at or above 90 % of the intensity range", "1"),
    "i10": ("least intensity that at most 10 % of the volume reach", _I),
    "i90": ("least intensity that at most 90 % of the volume reach", _I),
    "diff_v10_v90": ("difference of the volume fractions at 10 % and 90 %", "1"),
    "diff_i10_i90": ("difference of the intensities at 10 % and 90 % of the volume", _I),
}
_DISTRIBUTION = {
    "mean": ("mean", 1),
    "var": ("variance", 2),
    "skew": ("skewness", 0),
    "kurt": ("excess kurtosis", 0),
    "median": ("median", 1),
    "min": ("minimum", 1),
    "p10": ("10th percentile", 1),
    "p90": ("90th percentile", 1),
    "max": ("maximum", 1),
    "mode": ("mode", 1),
    "iqr": ("interquartile range", 1),
    "range": ("range", 1),
    "mad": ("mean absolute deviation", 1),
    "rmad": ("mean absolute deviation between the 10th and 90th percentile", 1),
    "medad": ("mean absolute deviation from the median", 1),
    "cov": ("coefficient of variation", 0),
    "qcod": ("quartile coefficient of dispersion", 0),
    "energy": ("sum of squares", 2),
    "rms": ("root mean square", 1),
    "entropy": ("entropy in bits", 0),
    "uniformity": ("sum of squared probabilities", 0),
    "max_grad": ("largest gradient of the histogram", 0),
    "max_grad_g": ("grey level of the largest gradient", 0),
    "min_grad": ("smallest gradient of the histogram", 0),
    "min_grad_g": ("grey level of the smallest gradient", 0),
}
_OF_LEVELS = ("mode", "entropy", "uniformity", "max_grad", "max_grad_g", "min_grad", "min_grad_g")
_OF_INTENSITIES = ("energy", "rms")
# The tags that are no textures.
PLAIN = (
    *(f"morph_{name}" for name in _MORPHOLOGY),
    *(f"loc_{name}" for name in _LOCAL),
    *(f"stat_{name}" for name in _DISTRIBUTION if name not in _OF_LEVELS),
    *(f"ih_{name}" for name in _DISTRIBUTION if name not in _OF_INTENSITIES),
    *(f"ivh_{name}" for name in _VOLUME_HISTOGRAM),
)
_COOCCURRENCE = {
    "joint_max": "joint maximum",
    "joint_avg": "joint average",
    "joint_var": "joint variance",
    "joint_entr": "joint entropy in bits",
    "diff_avg": "difference average",
    "diff_var": "difference variance",
    "diff_entr": "difference entropy in bits",
    "sum_avg": "sum average",
    "sum_var": "sum variance",
    "sum_entr": "sum entropy in bits",
    "energy": "angular second moment",
    "contrast": "contrast",
    "dissimilarity": "dissimilarity",
    "inv_diff": "inverse difference",
    "inv_diff_norm": "normalised inverse difference",
    "inv_diff_mom": "inverse difference moment",
    "inv_diff_mom_norm": "normalised inverse difference moment",
    "inv_var": "inverse variance",
    "corr": "correlation",
    "auto_corr": "autocorrelation",
    "clust_tend": "cluster tendency",
    "clust_shade": "cluster shade",
    "clust_prom": "cluster prominence",
    "info_corr1": "information correlation 1",
    "info_corr2": "information correlation 2",
    "mcc": "maximal correlation coefficient",
}
_NEIGHBOURHOOD = {name: name for name in ("coarseness", "contrast", "busyness", "complexity", "strength")}
# Emphases of the matrices of runs (r), zones (z) and dependences (d or c).
_FAMILIES = {
    "cm": "grey level co-occurrence matrix (distance 1)",
    "rlm": "grey level run length matrix",
    "szm": "grey level size zone matrix",
    "dzm": "grey level distance zone matrix",
    "ngt": "neighbourhood grey tone difference matrix (distance 1)",
    "ngl": "neighbouring grey level dependence matrix (distance 1, coarseness 0)",
}
_ELEMENT = {"rlm": ("run", "run length"), "szm": ("zone", "zone size"), "dzm": ("zone", "zone distance"),
            "ngl": ("count", "dependence count")}  # fmt: skip
_WAYS = {
    "2D_avg": "by slice and direction, averaged",
    "2D_comb": "by slice, directions merged, averaged",
    "2_5D_avg": "slices merged by direction, averaged",
    "2_5D_comb": "slices and directions merged",
    "3D_avg": "in space by direction, averaged",
    "3D_comb": "in space, directions merged",
    "2D": "by slice, averaged",
    "2_5D": "slices merged",
    "3D": "in space",
}


def feature(tag: str) -> Feature:
    """The schema's entry of one tag.

    Raises:
        KeyError: for a tag that is none.
    """
    family, _, rest = tag.partition("_")
    if family in ("morph", "loc", "ivh"):
        tables = {"morph": _MORPHOLOGY, "loc": _LOCAL, "ivh": _VOLUME_HISTOGRAM}
        definition, unit = tables[family][rest]
    elif family in ("stat", "ih"):
        what, power = _DISTRIBUTION[rest]
        definition = f"{what} of the {'intensities' if family == 'stat' else 'discretised intensities'}"
        unit = "1" if family == "ih" or power == 0 else _I + ("2" if power == 2 else "")
    else:
        way = next(end for end in _WAYS if rest.endswith(f"_{end}"))
        definition = f"{_texture(family, rest[: -len(way) - 1])} of the {_FAMILIES[family]}, {_WAYS[way]}"
        unit = "1"
    return Feature(tag, "float64", unit, definition, _SOURCE)


def _texture(family: str, name: str) -> str:
    if family == "cm":
        return _COOCCURRENCE[name]
    if family == "ngt":
        return _NEIGHBOURHOOD[name]
    one, measure = _ELEMENT[family]
    letters = name.removesuffix("_norm")
    normal = "normalised " if name.endswith("_norm") else ""
    fixed = {
        "glnu": "grey level non-uniformity",
        "gl_var": "grey level variance",
        "r_perc": "run percentage", "z_perc": "zone percentage", "dc_perc": "dependence count percentage",
        "dc_energy": "dependence count energy",
    }  # fmt: skip
    if letters in fixed:
        return normal + fixed[letters]
    if letters.endswith(("lnu", "snu", "dnu", "cnu")):
        return f"{normal}{measure} non-uniformity"
    if letters.endswith("_var"):
        return f"{measure} variance"
    if letters.endswith("_entr"):
        return f"{measure} entropy in bits"
    return _emphasis(family, letters, one)


def _emphasis(family: str, letters: str, one: str) -> str:
    """Short and long (small and large, low and high) emphases: s|l + element, l|h + grey level."""
    sizes = {"rlm": ("short", "long"), "szm": ("small", "large"), "dzm": ("small distance", "large distance"),
             "ngl": ("low dependence", "high dependence")}[family]  # fmt: skip
    said = []
    small, large = ("l", "h") if family == "ngl" else ("s", "l")
    if letters in ("lgre", "lgze", "lgce", "hgre", "hgze", "hgce"):
        return f"{'low' if letters[0] == 'l' else 'high'} grey level {one} emphasis"
    said.append(f"{sizes[0] if letters[0] == small else sizes[1] if letters[0] == large else letters} {one}")
    if "lge" in letters[1:]:
        said.append("low grey level")
    elif "hge" in letters[1:]:
        said.append("high grey level")
    return " ".join(said) + " emphasis"
