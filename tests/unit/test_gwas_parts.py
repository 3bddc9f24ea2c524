"""Parts of the association study that need no data: P values, the shared list of variants, packing, the device."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.features.genomics.variants import Variants
from pipelines.features.gwas import result
from pipelines.features.gwas.agree import agree
from pipelines.features.gwas.cohort import device
from pipelines.features.gwas.plan import pack, unpack
from protocol.errors import InputError


def test_p_values_are_right_far_below_a_double() -> None:
    import mpmath

    def truth(t: float, df: float) -> float:
        with mpmath.workdps(40):
            half = (mpmath.mpf(df) + 1) / 2
            scale = mpmath.loggamma(half) - mpmath.loggamma(half - 0.5) - mpmath.log(df * mpmath.pi) / 2
            top = half * mpmath.log1p(mpmath.mpf(t) ** 2 / df)
            step = min(1, 1 / (t + 1e-9)) if t < 1e5 else t / df
            cuts = [t + step * at for at in (0, 1, 3, 10, 30, 100, 1000)] + [mpmath.inf]
            area = mpmath.quad(lambda u: mpmath.exp(top - half * mpmath.log1p(u**2 / df)), cuts)
            return float((mpmath.log(2 * area) + scale - top) / mpmath.log(10))

    pairs = [(0.0, 10), (1.9, 495), (38.0, 495), (60.0, 1000), (200.0, 495), (34.0, 40000), (80.0, 100000), (1e6, 200)]
    for t, df in pairs:
        found = float(result.log10_p_student(np.array([t]), np.array([float(df)]))[0])
        assert found == pytest.approx(truth(t, df), rel=1e-9, abs=1e-9)
    z = np.array([0.0, 1.959963984540054, -5.0, 60.0])
    expected = [0.0, np.log10(0.05), -6.241604, -783.8]
    np.testing.assert_allclose(result.log10_p_normal(z), expected, rtol=1e-3, atol=1e-9)
    assert np.isnan(result.log10_p_student(np.array([1.0]), np.array([0.0]))[0])


def test_the_device_is_one_that_is_here() -> None:
    import torch

    assert device("cpu").type == "cpu"
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ["tpu"] + ([] if torch.cuda.is_available() else ["cuda"]):
        with pytest.raises(InputError):
            device(name)


def test_the_studys_list_is_what_the_sites_share() -> None:
    def listed(*rows: tuple[int, str, str]) -> Variants:
        return Variants.of([("1", pos, ref, alt, "") for pos, ref, alt in rows], "GRCh37")

    one = listed((1, "A", "G"), (2, "A", "C"), (3, "A", "T"), (4, "A", "AT"), (5, "A", "G"))
    two = listed((1, "G", "A"), (2, "T", "G"), (3, "A", "T"), (4, "A", "AT"), (6, "C", "T"))
    found = agree([one, two])
    assert list(zip(found.pos, found.ref, found.alt, strict=True)) == [(1, "A", "G"), (2, "A", "C"), (4, "A", "AT")]
    assert sorted(agree([one, two], least=1).pos) == [1, 2, 4, 5, 6]
    with pytest.raises(InputError):
        agree([one, listed((9, "A", "G"))])
    with pytest.raises(InputError):
        agree([])


def test_triangles_travel_and_return() -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 4, 4))
    matrix = matrix + matrix.swapaxes(1, 2)
    np.testing.assert_array_equal(unpack(pack(matrix), 4), matrix)
