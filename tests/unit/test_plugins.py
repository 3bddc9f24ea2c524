"""Plug-ins as a site finds them: what is one, what its digest covers, what policy and approvals make of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.approvals import Approvals, Verdict
from edge.config import load
from edge.policy import decide
from edge.state import SiteState
from pipelines import learners, plugins
from pipelines.registry import INSTALLED
from protocol.errors import ApprovalRequired, InputError, PolicyRefused
from protocol.study import Study
from tests.agentkit import site_config, study
from tests.pluginkit import KEY, install


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site") / "plugins")


@pytest.fixture(name="root")
def _root(made: Path, tmp_path: Path) -> Path:
    """A folder of plug-ins of one's own."""
    shutil.copytree(made, tmp_path / "plugins" / "example")
    return tmp_path / "plugins"


@pytest.fixture
def _alone() -> Iterator[None]:
    """What `load` changes in a process is changed back."""
    path, bytecode = list(sys.path), sys.dont_write_bytecode
    yield
    sys.path[:], sys.dont_write_bytecode = path, bytecode
    plugins._loaded.clear()
    for name in [name for name in sys.modules if name.startswith("corsia_example")]:
        del sys.modules[name]


def of(root: Path) -> plugins.Plugin:
    return plugins.found(root)[KEY]


def asked(key: str = KEY, learner: str = "wide-net", **parameters: object) -> Study:
    return study(
        "plug", lane="train", dataset={"name": "cohort", "columns": ["age", "score", "status"]},
        pipeline={"name": "train", "plugin": key, "parameters": parameters}, output={},
        training={
            "learner": learner, "features": ["age", "score"], "outcome": ["status"], "publish": {"model": "wide"},
        },
    )  # fmt: skip


@pytest.mark.slow
def test_a_plug_in_is_found_without_being_imported(root: Path) -> None:
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("no folder")
    found = plugins.found(root)
    assert list(found) == [KEY]
    assert dict(found[KEY].learners) == {
        "wide-net": "corsia_example:WideNet", "bright-net": "corsia_example:BrightNet",
    }  # fmt: skip
    assert "corsia_example" not in sys.modules
    assert plugins.found(None) == {} == plugins.found(root / "nowhere")


def test_one_that_is_there_twice_is_not_there(root: Path) -> None:
    shutil.copytree(root / "example", root / "again")
    assert plugins.found(root) == {}


def test_the_digest_covers_every_file_and_what_it_needs(root: Path) -> None:
    before = plugins.digest(of(root))
    assert before == plugins.digest(of(root))
    manifest = plugins.manifest(of(root))
    assert f"plugin:{KEY}/corsia_example/__init__.py" in manifest
    assert manifest["dependency:torch"].startswith("2.")
    for name in ("other.py", "corsia_example/more.so", "corsia_example/__pycache__/x.pyc", "evil.pth"):
        path = root / "example" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        assert plugins.digest(of(root)) != before, name
        path.unlink()
    assert plugins.digest(of(root)) == before


def test_links_are_refused(root: Path) -> None:
    (root / "example" / "linked").symlink_to("/tmp")
    with pytest.raises(PolicyRefused) as error:
        plugins.digest(of(root))
    assert error.value.code == "policy.plugin"


@pytest.mark.usefixtures("_alone")
def test_a_loaded_plug_in_gives_its_learners_and_shadows_nothing(root: Path) -> None:
    (root / "example" / "torch").mkdir()
    (root / "example" / "torch" / "__init__.py").write_text("raise SystemExit('shadowed')")
    with pytest.raises(PolicyRefused):
        plugins.load(root, KEY, "0" * 64)
    with pytest.raises(PolicyRefused):
        plugins.learner(KEY, "wide-net")
    plugins.load(root, KEY, plugins.digest(of(root)))
    made = learners.for_study(asked(positive=1))
    assert (made.name, made.version) == ("wide-net", KEY)
    named = learners.named("wide-net", ("age", "score"), {"model": {"width": 3}}, KEY)
    assert named.first()["0.weight"].shape == (3, 2)  # type: ignore[attr-defined]
    with pytest.raises(InputError):
        learners.for_study(asked(learner="none-such"))


@pytest.mark.usefixtures("_alone")
@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("    def build(self", "    def metrics(self, sums):\n        return {}\n\n    def build(self"),
        ("    def build(self", "    def sums(self, rows, least):\n        return {}\n\n    def build(self"),
        ("    def build(self", "    settings_type = dict\n\n    def build(self"),
        ("(TorchLearner)", "(object)"),
        ("import torch\n", "import nothing_of_this_name\n"),
        ("import torch\n", "import torch(\n"),
    ],
    ids=["metrics", "sums", "settings", "another base", "no module", "no syntax"],
)
def test_a_plug_in_that_says_more_than_it_may_is_refused(root: Path, text: str, instead: str) -> None:
    module = root / "example" / "corsia_example" / "__init__.py"
    module.write_text(module.read_text().replace(text, instead, 1))
    plugins.load(root, KEY, plugins.digest(of(root)))
    with pytest.raises(InputError) as error:
        learners.for_study(asked(positive=1))
    assert error.value.code == "input.study"


@pytest.mark.parametrize(
    ("allowed", "installed", "ok"),
    [((KEY,), (KEY,), True), ((), (KEY,), False), ((KEY,), (), False), (("corsia-example==1.0.1",), (KEY,), False)],
)
def test_policy_names_it_by_version(
    tmp_path: Path, allowed: tuple[str, ...], installed: tuple[str, ...], ok: bool
) -> None:
    config = site_config(tmp_path, plugins=list(allowed))
    decision = decide(asked(), config, INSTALLED, installed)
    assert decision.allowed is ok
    assert ok or decision.code == "policy.plugin"
    assert decide(study(), config, INSTALLED).allowed  # a study without one needs none


def test_an_approval_is_of_the_plug_in_as_it_was(tmp_path: Path) -> None:
    now = {"plug": "a"}
    approvals = Approvals(SiteState(tmp_path / "state.db"), lambda: "c" * 64, lambda _study: now["plug"])
    first = approvals.approve("1" * 64).code_digest
    assert first != "c" * 64
    assert approvals.look("1" * 64).verdict is Verdict.APPROVED
    now["plug"] = "b"
    assert approvals.look("1" * 64).verdict is Verdict.SUSPENDED
    with pytest.raises(ApprovalRequired) as error:
        approvals.require("1" * 64, "manual")
    assert error.value.code == "approval.changed"
    now["plug"] = ""
    assert Approvals(SiteState(tmp_path / "state.db"), lambda: "c" * 64).code("1" * 64) == "c" * 64


@pytest.mark.parametrize("key", ["corsia-example", "corsia-example>=1", "../x==1", "A==1", "a==", "a==1 ", "a==1/../x"])
def test_a_study_names_an_exact_version(key: str) -> None:
    with pytest.raises(ValueError, match="plugin"):
        asked(key)
    with pytest.raises(ValueError, match="plugin"):
        study(pipeline={"name": "harvest", "plugin": KEY})


def test_the_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    site_config(tmp_path)
    path = tmp_path / "edge.toml"
    path.write_text('plugins = "plugins"\n' + path.read_text())
    assert load(path).plugins == tmp_path / "plugins"
