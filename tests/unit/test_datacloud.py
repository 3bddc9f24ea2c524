"""The DataCloud folder: templates by tosca-parser, the role by Ansible itself, the forms by the dashboard's rules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from toscaparser.tosca_template import ToscaTemplate

from tests.releasekit import ROOT, program

# A play that has to share the machine may take long.
pytestmark = pytest.mark.timeout(1800)

CLOUD = ROOT / "deploy" / "datacloud"
TEMPLATES = sorted(path.relative_to(CLOUD / "tosca-templates") for path in (CLOUD / "tosca-templates").rglob("*.yaml"))
_REMOTE = re.compile(r"https://baltig\.infn\.it/infn-cloud/tosca-types/(?:-/)?raw/v[^/\s]+/")
# Field types that the dashboard's form draws.
FIELDS = {"text", "textarea", "integer", "float", "boolean", "list", "map", "hidden", "password", "random_password",
          "select", "multiselect", "radio", "toggle", "ssh_user", "userinfo", "uuidgen", "openstack_ec2credentials",
          "ports", "combined"}  # fmt: skip
# What the dashboard demands of metadata.yml (its config/schemas/metadata_schema.json), in our words.
_TEXT = {"type": "string"}
METADATA = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "properties": {
        "version": _TEXT,
        "services": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["description", "metadata", "templates"],
                "additionalProperties": False,
                "properties": {
                    "description": _TEXT,
                    "metadata": {
                        "type": "object",
                        "required": ["display_name", "bookmark_id", "guide_url", "icon", "visibility"],
                        "additionalProperties": False,
                        "properties": {
                            "display_name": _TEXT,
                            "bookmark_id": _TEXT,
                            "guide_url": _TEXT,
                            "icon": {"type": "string", "pattern": "^https://"},
                            "visibility": {
                                "type": "object",
                                "required": ["type", "groups_regex"],
                                "additionalProperties": False,
                                "properties": {"type": _TEXT, "groups_regex": {"type": "string", "format": "regex"}},
                            },
                        },
                    },
                    "templates": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name", "option"],
                            "additionalProperties": False,
                            "properties": {"name": _TEXT, "option": _TEXT, "description": _TEXT},
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


def read(*parts: str) -> Any:
    return yaml.safe_load(CLOUD.joinpath(*parts).read_text())


def beside(kind: str, template: Path) -> Any:
    """The parameters or metadata file that the dashboard looks for, by the template's path."""
    return read(f"tosca-{kind}", str(template.with_suffix(f".{kind}.yaml")))


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INFN's types and ours in one place, with every import turned into a local one."""
    folder = tmp_path_factory.mktemp("types").resolve()
    for root in (ROOT / "tests" / "datacloud", CLOUD / "tosca-types"):
        for source in root.rglob("*types.yaml"):
            copy = folder / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(_REMOTE.sub(f"{folder}/", source.read_text()))
    return folder


def parse(text: str, types: Path) -> ToscaTemplate:
    tree = yaml.safe_load(_REMOTE.sub(f"{types}/", text))
    tree["topology_template"].pop("outputs")  # tosca-parser 2.15 crashes on a list's index there
    return ToscaTemplate(yaml_dict_tpl=tree)


GIVEN = {"corsia_host": "c.example", "corsia_image": "i", "docker_compose_file_url": "https://x", "bucket_name": "b",
         "aws_access_key": "a", "aws_secret_key": "s"}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_a_template_is_valid(template: Path, types: Path) -> None:
    text = (CLOUD / "tosca-templates" / template).read_text()
    parsed = parse(text, types)
    nodes = {node.name: node.type for node in parsed.nodetemplates}
    assert nodes["corsia"] == "tosca.nodes.indigo.Corsia"
    assert {"tosca.nodes.indigo.iam.client", "tosca.nodes.indigo.S3Bucket"} <= set(nodes.values())
    assert ("pub_network" in nodes) is ("private-net" not in template.parts)
    assert {i.name for i in parsed.inputs if i.required and i.default is None} == set(GIVEN)
    metadata = yaml.safe_load(text)["metadata"]
    assert metadata["template_name"]
    assert metadata["display_name"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("corsia_name: { get_input: corsia_name }", "corsia_nmae: { get_input: corsia_name }"),
        ("type: tosca.nodes.indigo.Corsia", "type: tosca.nodes.indigo.Corsa"),
        ("{ get_input: corsia_image }", "{ get_input: corsia_picture }"),
        ("        corsia_host: { get_input: corsia_host }\n", ""),
    ],
)
def test_a_slip_in_a_template_is_found(old: str, new: str, types: Path) -> None:
    text = (CLOUD / "tosca-templates" / TEMPLATES[0]).read_text()
    assert old in text
    with pytest.raises(Exception, match=r"(?i)corsia|corsa|picture|host"):
        parse(text.replace(old, new), types)


def test_the_twins_differ_in_the_network_alone() -> None:
    public, private = (
        read("tosca-templates", *p) for p in (("docker", "corsia.yaml"), ("docker", "private-net", "corsia.yaml"))
    )
    one, two = public["topology_template"], private["topology_template"]
    assert one["inputs"] == two["inputs"]
    assert set(one["node_templates"]) - set(two["node_templates"]) == {"pub_network", "server_pub_port"}
    same = set(two["node_templates"]) - {"priv_network"}
    assert {n: one["node_templates"][n] for n in same} == {n: two["node_templates"][n] for n in same}


def test_one_version_of_the_types_is_imported() -> None:
    found = {m for p in CLOUD.rglob("*.y*ml") for m in re.findall(r"tosca-types/(?:-/)?raw/(v[^/\s]+)/", p.read_text())}
    assert len(found) == 1


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_the_form_fits_the_template(template: Path) -> None:
    topology, form = read("tosca-templates", str(template))["topology_template"], beside("parameters", template)
    assert set(form) == {"tabs", "inputs", "outputs"}
    assert set(form["inputs"]) == set(topology["inputs"])
    assert set(form["outputs"]) == set(topology["outputs"])
    for name, field in form["inputs"].items():
        assert field["type"] in FIELDS, name
        assert field["tab"] in form["tabs"], name
        assert field["display_name"], name
        assert field["description"], name
        asked = topology["inputs"][name]
        assert field.get("default", asked.get("default")) == asked.get("default"), name
        valid = [rule["valid_values"] for rule in asked.get("constraints", []) if "valid_values" in rule]
        if valid:
            assert [choice["value"] for choice in field["constraints"]] == valid[0], name
    assert {name for name in form["inputs"] if "secret" in name or "access_key" in name} <= {
        name for name, field in form["inputs"].items() if field["type"] == "hidden"
    }


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_the_dashboards_metadata(template: Path) -> None:
    one = beside("metadata", template)["metadata"]
    assert {"display_name", "description", "icon"} <= set(one)
    whole = read("tosca-metadata", "metadata.yml")
    jsonschema.Draft202012Validator(METADATA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER).validate(
        whole
    )
    (service,) = whole["services"]
    assert {entry["name"] for entry in service["templates"]} == {str(path) for path in TEMPLATES}


def test_type_playbook_role_and_compose_file_speak_of_the_same_settings() -> None:
    node = read("tosca-types", "tosca_types", "applications", "corsia_types.yaml")["node_types"][
        "tosca.nodes.indigo.Corsia"
    ]
    start = node["interfaces"]["Standard"]["start"]
    assert (CLOUD / "tosca-types" / start["implementation"].partition("/v")[2].partition("/")[2]).is_file()
    defaults, checked = (
        read("ansible-role-corsia", "defaults", "main.yml"),
        read("ansible-role-corsia", "vars", "main.yml"),
    )
    assert set(start["inputs"]) <= set(checked["corsia_patterns"])
    assert set(checked["corsia_patterns"]) <= set(defaults)
    inherited = {"project_name", "docker_compose_file_url"}
    assert {value["get_property"][1] for value in start["inputs"].values()} == set(node["properties"]) | inherited
    written = set(re.findall(r"^(CORSIA_\w+)=", (CLOUD / "ansible-role-corsia/templates/env.j2").read_text(), re.M))
    understood = set(re.findall(r"\$\{(CORSIA_\w+)", (ROOT / "deploy" / "compose" / "central.yaml").read_text()))
    assert written <= understood


_ENGINE = """#!/bin/sh
# Stands in for a container engine: notes what it is asked, and runs what it was told to start.
echo "$*" >> "$NOTED"
case "$*" in
*" ps "*) [ ! -e "$NOTED.up" ] || echo 0123456789ab ;;
*" up "*) touch "$NOTED.up" ;;
esac
"""


@pytest.fixture
def played(tmp_path: Path) -> Any:
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles" / "corsia.corsia").symlink_to(CLOUD / "ansible-role-corsia")
    (tmp_path / "docker").write_text(_ENGINE)
    (tmp_path / "docker").chmod(0o755)
    env = os.environ | {
        "ANSIBLE_ROLES_PATH": str(tmp_path / "roles"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "tmp"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        "NOTED": str(tmp_path / "noted"),
    }
    given = {
        "corsia_folder": str(tmp_path / "opt"),
        "corsia_engine": str(tmp_path / "docker"),
        "corsia_image": "corsia-central:1",
        "corsia_host": "centre.example",
        "corsia_compose_url": f"file://{ROOT}/deploy/compose/central.yaml",
        "corsia_owner": subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip(),
    }

    def play(**more: str) -> tuple[bool, int, str]:
        values = [word for name, value in (given | more).items() for word in ("-e", f"{name}={value}")]
        command = [program("ansible-playbook"), "-e", f"ansible_python_interpreter={sys.executable}", *values]
        command.append(str(CLOUD / "ansible-role-corsia" / "tests" / "test.yml"))
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
        changed = re.search(r"changed=(\d+)", done.stdout)
        return done.returncode == 0, int(changed[1]) if changed else -1, done.stdout + done.stderr

    play.folder = tmp_path  # type: ignore[attr-defined]
    return play


@pytest.mark.slow
def test_the_role_changes_nothing_the_second_time(played: Any) -> None:
    ok, changed, said = played()
    assert ok, said
    assert changed >= 4, said
    folder = played.folder / "opt"
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    command = [program("docker-compose"), "--env-file", ".env", "-f", "docker-compose.yaml", "config", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked = (played.folder / "noted").read_text().splitlines()
    assert sum(" up " in line for line in asked) == 1
    ok, changed, said = played()
    assert (ok, changed) == (True, 0), said


@pytest.mark.full
def test_a_changed_value_starts_the_centre_anew(played: Any) -> None:
    assert played()[0]
    ok, changed, said = played(corsia_certificate_days="3")
    assert (ok, changed) == (True, 2), said  # the file, and the start
    assert "CORSIA_CERTIFICATE_DAYS=3" in (played.folder / "opt" / ".env").read_text()
    assert sum(" up " in line for line in (played.folder / "noted").read_text().splitlines()) == 2


@pytest.mark.full
@pytest.mark.parametrize("name", ["corsia_host", "corsia_name", "corsia_oidc_operators"])
def test_the_role_refuses_a_value_that_is_more_than_a_value(played: Any, name: str) -> None:
    ok, _changed, said = played(**{name: '"a\\nCORSIA_IMAGE=evil"'})
    assert not ok
    assert "does not look like one" in said
    assert not (played.folder / "opt").exists()


@pytest.mark.full
def test_the_role_is_clean(tmp_path: Path) -> None:
    folder = shutil.copytree(CLOUD, tmp_path / "datacloud")
    bin_ = str(Path(program("ansible-lint")).parent)
    env = os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run([program("ansible-lint"), "--offline", "--profile", "production", "ansible-role-corsia",
                           "tosca-types/artifacts"], cwd=folder, env=env, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
