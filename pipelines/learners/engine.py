"""Local steps of a torch module at a site: minibatches, accumulation, mixed precision, one process or several.

    model (arrays) -> module -> `recipe.steps` minibatches of a feed -> model (arrays)

On a CPU the same input gives the same bytes; on other devices torch's deterministic algorithms are asked for, and
where there is none torch goes on with another. Nothing here knows a site, a message or what a sample is.

Source: Li et al. 2020, "Federated optimization in heterogeneous networks", MLSys, eq. 2 (the proximal term).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipelines.learners.network import batches
from protocol.errors import ConfigurationError, InputError, WorkerError

if TYPE_CHECKING:
    import torch

__all__ = [
    "Feed",
    "Loss",
    "Recipe",
    "arrays_of",
    "batched",
    "checked",
    "device_of",
    "loaded",
    "optimiser",
    "outputs",
    "reproducible",
    "trained",
]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Loss = Callable[[Any, Any], Any]  # (output, target) of n samples -> n losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Local steps.

    Attributes:
        batch: samples a step; `accumulate` parts of it are taken one after the other, for less memory.
        precision: `mixed` computes in float16 on CUDA (with a scaled loss), in bfloat16 on a CPU; weights, gradients
            and losses stay float32. Other devices go on in float32.
        clip: largest length of a step's gradient; None for none.
        pull: FedProx's mu.
        seed: of order, dropout and augmentation.
    """

    steps: int
    batch: int
    rate: float
    optimiser: Literal["sgd", "adam", "adamw"]
    seed: int
    weight_decay: float = 0.0
    accumulate: int = 1
    precision: Literal["float32", "mixed"] = "float32"
    clip: float | None = None
    pull: float = 0.0


class Feed(Protocol):
    """Samples, held as the learner likes; a batch is made when it is needed."""

    def __len__(self) -> int:
        """How many samples."""
        ...

    def batch(self, at: Array, step: int) -> tuple[Array, Array]:
        """Inputs and targets, float32 (n, ...), of the samples `at`; the same for equal arguments."""
        ...


def device_of(name: str) -> torch.device:
    """The device that the site names.

    Raises:
        WorkerError: `worker.device` when it is not there.
        ConfigurationError: `config.extra-missing` without torch.
    """
    try:
        import torch
    except ImportError:
        raise ConfigurationError("config.extra-missing", "training needs corsia[train]") from None
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda:0" if cuda else "mps" if mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise WorkerError("worker.device", f"{name} is not there")
    if device.type == "mps" and not mps:
        raise WorkerError("worker.device", f"{name} is not there")
    return device


def arrays_of(module: Any) -> Arrays:
    """A module's weights and buffers, float32, copies."""
    return {name: value.detach().to("cpu").float().numpy().copy() for name, value in module.state_dict().items()}


def checked(module: Any) -> Any:
    """The module, if averages over sites of all that it holds mean something.

    Raises:
        InputError: `input.study` for batch norm, whose statistics are of one site's batches, and for whole numbers.
    """
    import torch

    if any(torch.nn.parameter.is_lazy(weight) for weight in module.parameters()):
        raise InputError("input.study", "the model has weights without a shape: use no lazy layers")
    kinds = torch.nn.modules.batchnorm._BatchNorm | torch.nn.modules.instancenorm._InstanceNorm
    if any(isinstance(part, kinds) and part.track_running_stats for part in module.modules()):
        raise InputError("input.study", "the model keeps statistics of its batches: use group or layer norm")
    held = module.state_dict()
    if not held or not all(value.is_floating_point() for value in held.values()):
        raise InputError("input.study", "the model holds nothing to train, or numbers that cannot be averaged")
    return module


def loaded(module: Any, model: Mapping[str, Array]) -> Any:
    """The module with a model's arrays.

    Raises:
        InputError: `input.message` when names or shapes are others.
    """
    import torch

    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if own != {name: value.shape for name, value in model.items()}:
        raise InputError("input.message", "the arrays are not those of the model")
    module.load_state_dict({name: torch.from_numpy(np.array(value, np.float32)) for name, value in model.items()})
    return module


@contextmanager
def reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Seeded, deterministic, the site's number of threads; torch's state is as before afterwards."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    indices = [device.index or 0] if device.type == "cuda" else []
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with torch.random.fork_rng(devices=indices), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def trained(
    make: Callable[[], Any], model: Arrays, feed: Feed, recipe: Recipe, loss: Loss, device: torch.device,
    *, rank: int = 0, world: int = 1,
) -> Arrays:  # fmt: skip
    """The model after local steps over shuffled minibatches.

    Args:
        make: builds the module.
        rank, world: with `world` above 1, this process's share in each batch; all processes of the default group of
            `torch.distributed` call this with the same arguments, and all get the model.

    Raises:
        InputError: `input.diverged` for a loss or a weight that is not finite, `input.study` for a loss of the wrong
            form, `input.message` for another model's arrays.
    """
    import torch

    with reproducible(recipe.seed, device):
        module = loaded(make(), model).to(device)
        module.train()
        run: Any = module
        if world > 1:
            places = [device] if device.type == "cuda" else None
            run = torch.nn.parallel.DistributedDataParallel(module, device_ids=places)
        torch.manual_seed(recipe.seed + rank)
        finite = _steps(run, module, feed, recipe, loss, device, rank, world)
        made = arrays_of(module)
    if not finite or not all(bool(np.isfinite(value).all()) for value in made.values()):
        raise InputError("input.diverged", "the local steps diverged: lower training.learning_rate")
    return {name: made[name] for name in model}


def _steps(
    run: Any, module: Any, feed: Feed, recipe: Recipe, loss: Loss, device: torch.device, rank: int, world: int
) -> bool:
    """Train in place; whether every loss was finite."""
    import torch

    weights = [w for w in module.parameters() if w.requires_grad]
    start = [w.detach().clone() for w in weights] if recipe.pull else []
    moves = optimiser(weights, recipe)
    half = recipe.precision == "mixed" and device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    chosen = batches(len(feed), recipe.batch, np.random.default_rng(recipe.seed))
    fine = torch.ones((), dtype=torch.bool, device=device)
    for step in range(recipe.steps):
        moves.zero_grad(set_to_none=True)
        for lost in _backward(run, feed, next(chosen), step, recipe, loss, device, (rank, world), scaler):
            fine &= torch.isfinite(lost)
        scaler.unscale_(moves)
        for weight, was in zip(weights, start, strict=False):
            if weight.grad is not None:
                weight.grad.add_(weight.detach() - was, alpha=recipe.pull)
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        scaler.step(moves)
        scaler.update()
    return bool(fine)


def _backward(
    run: Any, feed: Feed, at: Array, step: int, recipe: Recipe, loss: Loss, device: torch.device,
    place: tuple[int, int], scaler: Any,
) -> Iterator[Any]:  # fmt: skip
    """The gradient of the batch's mean loss, part by part; gives this process's share of the loss.

    DDP takes the mean over processes, so a share counts `world` times. A process without a sample of its own goes
    through one that counts nothing, since all have to meet.
    """
    import torch

    rank, world = place
    mine = at[rank::world]
    weight = world / len(at) if len(mine) else 0.0
    mine = mine if len(mine) else at[:1]
    parts = np.array_split(mine, min(recipe.accumulate, len(mine)))
    for number, part in enumerate(parts):
        x, y = (torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device) for a in feed.batch(part, step))
        alone = run.no_sync() if world > 1 and number + 1 < len(parts) else nullcontext()
        with alone:
            with _precision(recipe, device):
                out = run(x)
            each = loss(out.float(), y)
            if tuple(each.shape) != (len(part),):
                raise InputError("input.study", "the model's loss gives not one number a sample")
            lost = each.sum() * weight
            scaler.scale(lost).backward()
        yield lost.detach()


def _precision(recipe: Recipe, device: torch.device) -> Any:
    import torch

    half = {"cuda": torch.float16, "cpu": torch.bfloat16}.get(device.type)
    if recipe.precision == "float32" or half is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=half)


def optimiser(weights: list[Any], recipe: Recipe) -> Any:
    """The recipe's, over these weights."""
    import torch

    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return made(weights, lr=recipe.rate, weight_decay=recipe.weight_decay)


def outputs(make: Callable[[], Any], model: Mapping[str, Array], feed: Feed, batch: int, device: torch.device) -> Array:
    """The module's output for each sample in order, float32 (samples, ...). Raises as `loaded`."""
    return np.concatenate(list(batched(make, model, feed, batch, device)))


def batched(
    make: Callable[[], Any], model: Mapping[str, Array], feed: Feed, batch: int, device: torch.device
) -> Iterator[Array]:
    """As `outputs`, batch by batch."""
    import torch

    with reproducible(0, device), torch.inference_mode():
        module = loaded(make(), model).to(device)
        module.eval()
        for start in range(0, len(feed), batch):
            x, _ = feed.batch(np.arange(start, min(start + batch, len(feed))), 0)
            yield module(torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device)).float().cpu().numpy()
