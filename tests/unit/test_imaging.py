"""Networks on images: samples, joins, augmentation, training over sites, scores, predictions, refusals."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest

from central.federation.local import train_locally
from pipelines import Job, learners
from pipelines.features import series as found
from pipelines.learners.images import Augment, Grid, augmented, gridded
from pipelines.train import TrainingData, load, open_session
from protocol.errors import CorsiaError, InputError
from protocol.study import Privacy, Study
from tests.imagekit import CNN, SITES, ImageSource, frame, series, source, study


def data(plan: Study, site: str, given: ImageSource | None = None) -> TrainingData:
    read = given or source(site)
    return load(plan, site, read.table(), read.documents, "patient_id", read.files)


def volume(size: int = 20, slices: int = 6) -> found.Series:
    at = np.indices((slices, size, size)).astype(np.float32)
    axes = np.eye(3)
    return found.Series(
        uid="1.2", modality="CT", voxels=at[2] * 10 + at[1], spacing=(3.0, 2.0, 2.0), origin=np.zeros(3),
        row=axes[0], column=axes[1], normal=axes[2], instances=("1",) * slices,
    )  # fmt: skip


# -- samples -----------------------------------------------------------------------------------------------------------


def test_the_grid_of_the_image_gives_the_image() -> None:
    made = gridded(volume(), Grid(size=(20, 20)))
    assert np.array_equal(made.x, volume().voxels)
    assert made.voxel_ml == pytest.approx(3 * 2 * 2 / 1000)
    assert made.x.dtype == np.float32  # nothing bounds the values
    middle = gridded(volume(), Grid(size=(20, 20), slices=2))
    assert np.array_equal(middle.x, volume().voxels[2:4])


def test_resampling_keeps_places_and_means() -> None:
    """A linear ramp stays one: halved, doubled, cropped and extended about the same centre."""
    ramp = volume().voxels[0]
    half = gridded(volume(), Grid(size=(10, 10))).x[0]
    assert half[2:-2, 2:-2] == pytest.approx((ramp[::2, ::2] + ramp[1::2, 1::2])[2:-2, 2:-2] / 2, abs=1e-3)
    double = gridded(volume(), Grid(size=(40, 40))).x[0]
    assert double[2:-2, 2:-2].mean() == pytest.approx(ramp.mean(), rel=1e-5)
    crop = gridded(volume(), Grid(size=(10, 10), spacing=(2.0, 2.0))).x[0]
    assert np.allclose(crop, ramp[5:15, 5:15], atol=1e-4)
    wide = gridded(volume(), Grid(size=(24, 24), spacing=(2.0, 2.0))).x[0]
    assert np.allclose(wide[2:-2, 2:-2], ramp, atol=1e-4)
    assert (wide[:2] == ramp.min()).all()  # outside lies the lowest value
    three = gridded(volume(), Grid(dimensions=3, size=(6, 20, 20), window=(0, 1000)))
    assert three.x.shape == (1, 6, 20, 20)
    assert three.x.dtype == np.float16


def test_a_mask_goes_with_its_image() -> None:
    mask = np.zeros((6, 20, 20), np.bool_)
    mask[:, 4:12, 4:12] = True
    made = gridded(volume(), Grid(size=(10, 10)), mask)
    assert made.mask is not None
    assert made.mask[0].sum() == 16
    assert made.mask[0, 2:6, 2:6].all()


def test_augmentation_is_drawn_from_its_seed_alone_and_moves_the_mask_too() -> None:
    x = volume().voxels[0]
    mask = x > 100
    how = Augment(flip=("columns", "rows"), shift=3, intensity=0.1)
    first, moved = augmented(x, mask, how, np.random.default_rng([1, 2, 3]))
    again, _ = augmented(x, mask, how, np.random.default_rng([1, 2, 3]))
    assert np.array_equal(first, again)
    others = [augmented(x, None, how, np.random.default_rng([1, 2, i]))[0] for i in range(20)]
    assert len({one.tobytes() for one in others}) == 20
    plain, its = augmented(x, mask, Augment(flip=("columns",), shift=3), np.random.default_rng(5))
    assert its is not None
    assert np.array_equal(its, plain > 100)  # nothing but places changed
    same, _ = augmented(x, None, Augment(), np.random.default_rng(5))
    assert np.array_equal(same, x)
    turned = [augmented(x, None, Augment(flip=("columns",)), np.random.default_rng(i))[0] for i in range(20)]
    assert {one.tobytes() for one in turned} == {x.tobytes(), np.ascontiguousarray(x[:, ::-1]).tobytes()}
    assert moved is not None


def test_rows_are_joined_by_patient_and_what_cannot_be_used_is_counted() -> None:
    given = source("site-a")
    files = list(given._files)
    files.append(b"no DICOM at all")
    broken = pydicom.dcmread(BytesIO(files[0]))
    broken.ImagePositionPatient[2] = 1000  # a slice is missing now
    buffer = BytesIO()
    broken.save_as(buffer)
    files[0] = buffer.getvalue()
    files += series("site-b", 3, 1)  # of nobody in the table
    table = frame("site-a")
    table.loc[5, "dense"] = None
    rows = data(study(), "site-a", ImageSource(table, files)).rows
    assert rows.count == 10
    assert rows.dropped == 2
    assert dict(rows.withheld) == {"unreadable": 1, "image": 1}
    assert rows.x.shape == (20, 16, 16)
    assert rows.x.dtype == np.float16
    assert np.array_equal(np.bincount(rows.owner), [2] * 10)


def test_of_several_series_the_study_says_which() -> None:
    first, second = series("site-a", 0, 1, masks=False), []
    for raw in series("site-a", 0, 0, masks=False)[:4]:
        image = pydicom.dcmread(BytesIO(raw))
        image.SeriesInstanceUID, image.SeriesDescription = "1.2.3", "Late Phase"
        image.SOPInstanceUID = f"1.2.3.{len(second)}"
        buffer = BytesIO()
        image.save_as(buffer)
        second.append(buffer.getvalue())
    table = frame("site-a", 1)
    given = ImageSource(table, [*second, *first])

    def rows(**wanted: Any) -> Any:
        plan = study(parameters={"slices": 0, **wanted})
        plan = plan.model_copy(update={"privacy": Privacy(min_cohort=1)})
        return data(plan, "site-a", given).rows

    assert len(rows().x) == 8  # the longest
    assert len(rows(series="late*").x) == 4
    with pytest.raises(InputError) as error:
        rows(modality="MR")
    assert error.value.code == "input.rows"


def test_a_site_with_too_few_patients_with_images_does_not_train() -> None:
    given = source("site-a")
    few = ImageSource(given.table(), given._files[: 9 * 9])
    with pytest.raises(CorsiaError) as error:
        data(study(), "site-a", few)
    assert error.value.code == "gate.cohort"


def test_a_patient_with_two_rows_is_refused() -> None:
    given = source("site-a")
    table = pd.concat([frame("site-a"), frame("site-a", 1)], ignore_index=True)
    with pytest.raises(InputError) as error:
        data(study(), "site-a", ImageSource(table, given._files))
    assert error.value.code == "input.table"


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.fixture(name="consortium", scope="module")
def _consortium() -> dict[str, TrainingData]:
    return {site: data(study(), site) for site in SITES}


@pytest.fixture(name="trained", scope="module")
def _trained(consortium: dict[str, TrainingData]) -> Any:
    return train_locally(study(), consortium)


@pytest.mark.slow
def test_a_classifier_learns_over_sites_and_gives_the_same_bytes_again(
    consortium: dict[str, TrainingData], trained: Any
) -> None:
    assert trained.metrics["auc"] > 0.95
    assert trained.metrics["rows"] == 36
    again = train_locally(study(), consortium)
    assert all(np.array_equal(again.model[name], value) for name, value in trained.model.items())
    assert all(value.dtype == np.float32 for value in trained.model.values())


def test_normalisation_is_that_of_the_pooled_patients(consortium: dict[str, TrainingData], trained: Any) -> None:
    per = np.concatenate([one.rows.moments for one in consortium.values()])
    mean = per[:, 0].mean()
    assert trained.preprocessing["mean"][0] == pytest.approx(mean)
    assert trained.preprocessing["scale"][0] == pytest.approx(np.sqrt(per[:, 1].mean() - mean**2))


@pytest.mark.slow
def test_masked_and_plain_give_the_same_model(consortium: dict[str, TrainingData], trained: Any) -> None:
    plan = study(max_norm=100.0)
    plan = plan.model_copy(update={"privacy": Privacy(secure_aggregation=True, max_examples=1000)})
    masked = {site: TrainingData(study=plan, site=site, learner=one.learner, rows=one.rows)
              for site, one in consortium.items()}  # fmt: skip
    made = train_locally(plan, masked)
    for name, value in trained.model.items():
        assert np.allclose(made.model[name], value, rtol=0, atol=2e-4)


def test_fewer_than_k_of_a_class_leave_no_count() -> None:
    learner = learners.for_study(study())
    table = frame("site-a").assign(dense=[1] * 3 + [0] * 9)
    rows = data(study(), "site-a", ImageSource(table, source("site-a")._files)).rows
    sums = learner.sums(rows, 5)
    assert sums["outcome"].tolist() == [9, 0]
    assert learner.plausible(sums, 12)
    assert not learner.plausible(sums, 11)
    assert not learner.plausible({**sums, "outcome": np.array([-1.0, 0])}, 12)
    assert not learner.plausible({**sums, "intensity": np.array([12.0, 100.0, 1.0])}, 12)
    with pytest.raises(InputError) as error:
        learner.agree(sums)
    assert error.value.code == "input.rows"


def test_a_u_net_needs_no_table_where_the_site_has_none() -> None:
    plan = study("unet")
    given = ImageSource(None, source("site-a")._files)
    rows = load(plan, "site-a", None, given.documents, None, given.files).rows
    assert rows.count == 12
    with pytest.raises(InputError):
        load(study(), "site-a", None, given.documents, None, given.files)


def test_a_session_tells_what_it_set_aside() -> None:
    given = source("site-a")
    withheld: dict[str, int] = {}

    class Gate:
        def withhold(self, reason: str, count: int = 1) -> None:
            withheld[reason] = withheld.get(reason, 0) + count

        def progress(self, done: int, total: int) -> None:
            pass

    job = Job(study=study(), site="site-a", key=bytes(32), roles={"patient_id": "patient"})
    open_session(job, ImageSource(given.table(), [b"x", *given._files]), Gate())  # type: ignore[arg-type]
    assert withheld == {"unreadable": 1}


# -- predictions -------------------------------------------------------------------------------------------------------


def test_predictions_are_one_row_a_patient(trained: Any) -> None:
    learner = learners.named("cnn", (), study().pipeline.parameters)
    assert isinstance(learner, learners.ImageModel)
    new = [raw for number in (20, 21) for raw in series("site-d", number, number % 2, masks=False)]
    made, withheld = learner.predict_images(trained.model, trained.preprocessing, ImageSource(None, new).files())
    assert made["patient"].tolist() == ["SITE-D-020", "SITE-D-021"]
    assert made["probability"][1] > made["probability"][0]
    assert withheld == {}
    with pytest.raises(InputError):
        learner.predict(trained.model, trained.preprocessing, frame("site-a"))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learner", "parameters"),
    [
        ("cnn", {"size": [16]}),
        ("cnn", {"dimensions": 3}),
        ("cnn", {"window": [5, 5]}),
        ("cnn", {"window": None, "normalise": "none"}),
        ("cnn", {"augment": {"flip": ["slices"]}}),
        ("cnn", {"positive": 1, "negative": 1}),
        ("cnn", {"device": "cuda"}),
        ("cnn", {"local": {"batch": 0}}),
        ("unet", {"size": [18, 17]}),
        ("unet", {"task": "continuous"}),
    ],
)
def test_settings_that_cannot_be_are_refused(learner: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        learners.for_study(study(learner, parameters))
    assert error.value.code == "input.study"


def test_a_study_without_images_with_features_or_with_privacy_is_refused() -> None:
    plan = study()
    raw = plan.model_dump(by_alias=True, exclude_none=True)
    for changed in (
        {"dataset": {**raw["dataset"], "images": False}},
        {"training": {**raw["training"], "features": ("age",)}},
        {"training": {**raw["training"], "outcome": ()}},
        {"privacy": {"dp": "sample", "epsilon": 1.0, "delta": 1e-5}},
    ):
        with pytest.raises(InputError) as error:
            learners.for_study(Study.model_validate(deepcopy(raw) | changed))
        assert error.value.code == "input.study"
    assert CNN["slices"] == 2
