"""Units, images and compose files: read by the programs that will read them, and what their scripts do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from central.config import load_config
from tests.releasekit import ROOT, program

BIN = Path(sys.executable).parent
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
COMPOSE = ROOT / "deploy" / "compose"
ENVIRONMENT = {
    "edge": {"CORSIA_EDGE_TOML": "/srv/edge.toml", "CORSIA_DATA": "/srv/data"},
    "central": {"CORSIA_HOST": "centre.example"},
}
WORKERS_CALLS = ("seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=600)


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Z]\w+)=(.*)$", unit.read_text(), re.M):
        found.setdefault(name, []).append(value)
    return found


# --- systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.stem)
def test_a_unit_is_sound_and_exposes_little(unit: Path, tmp_path: Path) -> None:
    analyze = program("systemd-analyze", package="systemd")
    copy = tmp_path / unit.name  # with a program that is there: the release is not
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M))
    done = run(analyze, "verify", "--man=no", str(copy))
    assert (done.returncode, done.stderr) == (0, "")
    judged = run(analyze, "security", "--offline=true", "--threshold=22", str(unit))
    assert judged.returncode == 0, judged.stdout[-200:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.stem)
def test_a_unit_leaves_a_worker_the_means_of_its_confinement(unit: Path) -> None:
    has = settings(unit)
    allowed, denied = [], []
    for value in has["SystemCallFilter"]:
        (denied if value.startswith("~") else allowed).extend(value.removeprefix("~").split())
    assert set(WORKERS_CALLS) <= set(allowed)
    assert "ptrace" not in allowed
    assert {"@debug", "process_vm_readv", "process_vm_writev"} <= set(denied)
    assert set(has["RestrictNamespaces"][0].split()) == {"user", "net", "ipc"}
    assert has["User"] == [unit.stem]
    assert has["NoNewPrivileges"] == ["yes"]
    assert has["CapabilityBoundingSet"] == [""]
    assert has["Type"] == ["notify"]
    verb = {"corsia-edge": "edge run", "corsia-central": "central serve"}[unit.stem]
    assert f"corsia {verb} --config /etc/corsia/" in has["ExecStart"][0]
    users = (ROOT / "deploy" / "systemd" / "corsia.sysusers.conf").read_text()
    assert f"u {unit.stem} " in users


def test_the_filter_holds_every_call_that_confinement_makes(tmp_path: Path) -> None:
    """What `pipelines.confinement` calls, as strace saw it, against systemd's own lists."""
    strace, analyze = program("strace", package="strace"), program("systemd-analyze", package="systemd")
    code = (
        "import os; from pathlib import Path; from pipelines.confinement import close_files, confine, missing\n"
        "missing(confine(os.getppid(), 1 << 34)); close_files([Path('/usr')], [])\n"
        "import numpy, pandas, pyarrow; pandas.DataFrame({'a': [1]}).sum()"
    )
    log = tmp_path / "calls"
    done = run(strace, "-f", "-o", str(log), sys.executable, "-c", code, PYTHONPATH=str(ROOT))
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    used = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.M)) - {"exit_group", "exit"}
    assert {"unshare", "prctl", "landlock_restrict_self"} <= used
    sets: dict[str, set[str]] = {}
    for line in run(analyze, "--no-pager", "syscall-filter").stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            current = sets.setdefault(word, set())
        elif word and not word.startswith("#"):
            current.add(word)

    def calls(name: str) -> set[str]:
        return set().union(*(calls(one) for one in sets[name])) if name in sets else {name}

    for unit in UNITS:
        words = settings(unit)["SystemCallFilter"]
        allowed = set().union(*(calls(w) for v in words if v[0] != "~" for w in v.split())) | calls("@default")
        denied = set().union(*(calls(w) for v in words if v[0] == "~" for w in v[1:].split())) - calls("@default")
        assert used - (allowed - denied) == set()


# --- images and compose


@pytest.mark.parametrize("seat", ENVIRONMENT)
def test_an_image_is_clean_and_holds_what_the_product_is(seat: str) -> None:
    file = COMPOSE / f"{seat}.Dockerfile"
    done = run(program("hadolint"), str(file))
    assert (done.returncode, done.stdout) == (0, "")
    text = file.read_text()
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.M)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert set(re.findall(r"^COPY (\w+)/ \1/$", text, re.M)) == set(packages)
    copied = {word for line in re.findall(r"^COPY (?!--from).*", text, re.M) for word in line.split()[1:-1]}
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    names = {word.rstrip("/") for word in copied if not word.startswith("--")}
    assert {name for name in names if not name.startswith("deploy/")} <= kept
    assert f"deploy/compose/{seat}.sh" in names


@pytest.mark.parametrize("seat", ENVIRONMENT)
def test_a_compose_file_is_valid_and_driven_by_the_environment(seat: str, tmp_path: Path) -> None:
    file = shutil.copy(COMPOSE / f"{seat}.yaml", tmp_path)  # self-contained: nothing lies beside it
    compose = program("docker-compose")
    done = run(compose, "-f", str(file), "config", "--format", "json", **ENVIRONMENT[seat])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name, service in json.loads(done.stdout)["services"].items():
        assert "build" not in service
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        published = {p["published"] for p in service.get("ports", []) if p.get("host_ip") != "127.0.0.1"}
        assert published == ({"7443", "7444"} if name == "centre" else set()), name
    for missing in ENVIRONMENT[seat]:
        fewer = {k: v for k, v in ENVIRONMENT[seat].items() if k != missing}
        assert missing in run(compose, "-f", str(file), "config", **fewer).stderr
    names = set(re.findall(r"\$\{(\w+)", Path(file).read_text()))
    head = "\n".join(line for line in Path(file).read_text().splitlines() if line.startswith("#"))
    page = (COMPOSE / "README.md").read_text()
    assert names - set(re.findall(r"CORSIA_\w+", head + page)) == set(), "a variable that nobody is told of"


@pytest.mark.parametrize("seat", ENVIRONMENT)
def test_what_a_compose_file_sets_its_script_reads(seat: str) -> None:
    given = set().union(
        *(
            set(s.get("environment", {}))
            for s in yaml.safe_load((COMPOSE / f"{seat}.yaml").read_text())["services"].values()
        )
    )
    read = set(re.findall(r"\$\{?(CORSIA_\w+)", (COMPOSE / f"{seat}.sh").read_text()))
    elsewhere = {"CORSIA_EDGE_FLEET"}  # edge/config.py
    assert {name for name in given if name.startswith("CORSIA_")} <= read | elsewhere


@pytest.fixture
def centre(tmp_path: Path) -> dict[str, str]:
    path = f"{BIN}:{os.environ['PATH']}"
    return {"CORSIA_CENTRAL_HOME": str(tmp_path), "CORSIA_HOST": "centre.example", "PATH": path}


def test_the_centres_container_writes_its_file_from_the_environment(centre: dict[str, str], tmp_path: Path) -> None:
    script = str(COMPOSE / "central.sh")
    more = {"CORSIA_NAME": "cardio", "CORSIA_PORT": "9443", "CORSIA_CERTIFICATE_DAYS": "3"}
    assert run("sh", script, "write", **centre, **more).returncode == 0
    config = load_config(tmp_path / "central.toml")
    assert (config.name, config.gateway.fleet_address) == ("cardio", "centre.example:9443")
    assert config.gateway.certificate_days == 3
    token = config.token_path.read_text()
    assert run("sh", script, "write", **centre, **more | {"CORSIA_NAME": "other"}).returncode == 0
    assert load_config(tmp_path / "central.toml").name == "other"
    assert config.token_path.read_text() == token, "a restart makes no other operator"


@pytest.mark.parametrize("value", ['a"\nstate_dir = "/"', "a\nb", 'a"', "a\\"])
def test_a_setting_that_would_be_more_than_a_setting_is_refused(
    centre: dict[str, str], tmp_path: Path, value: str
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "operator.token").touch()
    done = run("sh", str(COMPOSE / "central.sh"), "write", **centre | {"CORSIA_NAME": value})
    assert done.returncode == 2
    assert not (tmp_path / "central.toml").exists()


def test_the_edges_container_enrols_once_and_hides_the_code(tmp_path: Path) -> None:
    """With a `corsia` in the path that notes how it was called; what it does is tested where it is."""
    (tmp_path / "corsia").write_text('#!/bin/sh\necho "$* [${CORSIA_JOIN_CODE:-}] $(cat)" >> "$NOTED"\n')
    (tmp_path / "corsia").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {"PATH": path, "NOTED": str(tmp_path / "noted"), "CORSIA_EDGE_STATE_DIR": str(tmp_path)}
    env["CORSIA_JOIN_CODE"] = "corsia1-x"

    def calls(*words: str) -> list[str]:
        (tmp_path / "noted").unlink(missing_ok=True)
        done = subprocess.run(["sh", str(COMPOSE / "edge.sh"), *words], env=os.environ | env, stdin=subprocess.DEVNULL)
        assert done.returncode == 0
        return [line.rstrip() for line in (tmp_path / "noted").read_text().splitlines()]

    run_it = "edge run --config /etc/corsia/edge.toml []"
    assert calls("run") == ["edge enroll --config /etc/corsia/edge.toml --code - [] corsia1-x", run_it]
    (tmp_path / "enrolment.json").touch()
    assert calls() == [run_it]
    assert calls("spool", "ls") == ["edge spool ls --config /etc/corsia/edge.toml []"]
