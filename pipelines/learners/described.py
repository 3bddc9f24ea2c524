"""A plug-in's learner at the centre, which never runs the plug-in in a process that holds a key.

The centre needs of a plug-in only its first weights; all else (preprocessing, averaging, metrics) is our base class.
A child process without network, environment or files but the plug-in's (`python -m pipelines.learners.described`)
builds the module from the study's seed and writes the weights as safetensors; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import plugins
from pipelines.confinement import close_files, confine, missing, relink, system_paths
from protocol.errors import CODES, CorsiaError, InputError, PolicyRefused, from_code
from protocol.study import Study, dump_study, parse_study

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FOLDER", "described", "main", "outlined"]

FOLDER = "CORSIA_PLUGINS"  # the centre's folder of plug-ins; without it such studies are refused there
_TIMEOUT_S = 300.0
_MEMORY_BYTES = 8_000_000_000
_MAX_BYTES = 2_000_000_000
Arrays = dict[str, "np.ndarray[Any, Any]"]


def described(study: Study) -> Any:
    """The learner of a study that names a plug-in, for the centre.

    Raises:
        PolicyRefused: `policy.plugin` when the operator has put no such plug-in into the centre's folder.
        InputError: `input.study` as the plug-in's own classes raise.
    """
    training, key = study.training, study.pipeline.plugin or ""
    root = Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else None
    plugin = plugins.found(root).get(key)
    if training is None or plugin is None or root is None:
        raise PolicyRefused("policy.plugin", f"plug-in {key!r} is not in the centre's folder ({FOLDER})")

    def initial(_self: Any, sums: Arrays, preprocessing: Arrays) -> Arrays:
        del sums, preprocessing
        return _first(study, root, plugin)

    return _made(study, initial=initial)


def outlined(study: Study) -> Any:
    """The same without first weights, for which nothing of the plug-in is needed: what its noise costs, at a site.

    Raises:
        InputError: `input.study`.
    """
    return _made(study)


def _made(study: Study, **parts: Any) -> Any:
    from pipelines.learners.imaging import ImageLearner
    from pipelines.learners.torchmodel import TorchLearner

    if study.training is None:
        raise InputError("input.study", "training: the study has no such table")
    parent: Any = ImageLearner if study.dataset.images else TorchLearner
    named = {"name": study.training.learner, "version": study.pipeline.plugin}
    return type("Described", (parent,), {**named, **parts}).from_study(study)  # type: ignore[attr-defined]


def _first(study: Study, root: Path, plugin: plugins.Plugin) -> Arrays:
    """The plug-in's weights before round 1."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with tempfile.TemporaryDirectory(prefix="corsia-plugin-") as home:
        command = [sys.executable, "-I", "-W", "ignore", "-m", "pipelines.learners.described", str(os.getpid())]
        environment = {"HOME": home, "TMPDIR": home, "PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [*command, str(root.resolve()), plugin.key, plugins.digest(plugin)], input=dump_study(study),
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=home, env=environment, timeout=_TIMEOUT_S,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise from_code("worker.killed") from None
    if done.returncode or len(done.stdout) > _MAX_BYTES:
        raise from_code(_code(done.stdout))
    try:
        arrays = load(done.stdout)
    except (SafetensorError, ValueError):
        raise from_code("worker.failed") from None
    order = json.loads(bytes(arrays.pop("names").tobytes()))
    return {str(name): arrays[str(name)] for name in order}


def _code(said: bytes) -> str:
    code = said[:64].decode("ascii", "replace")
    return code if code in CODES and code.startswith(("input.", "policy.", "config.extra-missing")) else "worker.failed"


def main() -> None:
    """The child: confine, load, build, write."""
    parent, root, key, expected = int(sys.argv[-4]), Path(sys.argv[-3]), sys.argv[-2], sys.argv[-1]
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raw = sys.stdin.buffer.read()
    network = confine(parent, _MEMORY_BYTES)
    try:
        lacks = {"network", "files"} & set(missing(network))
        readable = [*system_paths(), root]
        relink(Path.cwd())
        if lacks or not close_files(readable, [Path.cwd()]):
            raise PolicyRefused("policy.plugin", "this machine cannot isolate a plug-in")
        made = _built(parse_study(raw), root, key, expected)
        status = 0
    except CorsiaError as error:
        made, status = error.code.encode(), 1
    except BaseException:  # whatever a plug-in raises ends here
        made, status = b"worker.failed", 1
    view = memoryview(made)
    while view:
        view = view[os.write(answer, view) :]
    os._exit(status)


def _built(study: Study, root: Path, key: str, expected: str) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    plugins.load(root, key, expected)
    if study.training is None:
        raise InputError("input.study", "training: the study has no such table")
    arrays: Mapping[str, Any] = plugins.learner(key, study.training.learner).from_study(study).first()
    if "names" in arrays:
        raise InputError("input.study", "an array of the model is called `names`")
    names = np.frombuffer(json.dumps(list(arrays)).encode(), np.uint8)
    return bytes(save({**arrays, "names": names}))


if __name__ == "__main__":
    main()
