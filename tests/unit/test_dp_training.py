"""Opacus trains with our noise and our samples: no generator of torch or numpy is read."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from privacy.dp.stream import Stream
from privacy.dp.training import poisson_batches, private_optimizer

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")


def stream(name: str) -> Stream:
    return Stream(hashlib.sha256(name.encode()).digest())


def model(inputs: int, outputs: int) -> tuple[object, object]:
    from opacus import GradSampleModule

    plain = torch.nn.Linear(inputs, outputs)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    return GradSampleModule(plain), plain


def one_step(rows: int, source: Stream | None, *, inputs: int = 100, outputs: int = 100) -> np.ndarray:
    wrapped, plain = model(inputs, outputs)
    inner = torch.optim.SGD(wrapped.parameters(), lr=1.0)
    optimizer = private_optimizer(inner, multiplier=2.0, max_grad_norm=0.5, expected_batch_size=10, stream=source)
    x = torch.ones((rows, inputs), requires_grad=True)
    wrapped(x).pow(2).sum().backward()  # zero weights: no gradient, so all that moves is noise
    optimizer.step()
    return plain.weight.detach().numpy().ravel().astype(np.float64)


@pytest.mark.slow
def test_noise_is_of_the_size_that_was_asked_for() -> None:
    moved = one_step(4, stream("noise"))
    assert stats.kstest(moved / (2.0 * 0.5 / 10), "norm").pvalue > 1e-4


def test_no_global_generator_is_read() -> None:
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    wrapped, plain = model(4, 3)
    optimizer = private_optimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0), multiplier=1.0, max_grad_norm=1.0, expected_batch_size=2
    )
    begun = torch.get_rng_state()
    wrapped(torch.ones((2, 4), requires_grad=True)).sum().backward()
    optimizer.step()
    first = plain.weight.detach().clone()
    assert torch.equal(torch.get_rng_state(), begun)
    assert np.random.get_state()[1].tobytes() == state
    assert before.shape == begun.shape
    torch.manual_seed(3)
    assert one_step(1, None, inputs=4, outputs=3).tolist() != first.ravel().tolist()


def test_a_row_moves_the_sum_by_its_bound_at_most_and_a_sum_is_used_once() -> None:
    wrapped, plain = model(3, 1)
    optimizer = private_optimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0), multiplier=1e-9, max_grad_norm=0.5, expected_batch_size=1
    )
    (1e6 * wrapped(torch.ones((1, 3), requires_grad=True))).sum().backward()
    optimizer.step()
    moved = torch.cat([p.detach().ravel() for p in plain.parameters()])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match="cleared"):
        optimizer.step()


def test_an_empty_batch_is_noised_as_any_other() -> None:
    moved = one_step(0, stream("empty"))
    assert stats.kstest(moved / 0.1, "norm").pvalue > 1e-4


def test_batches_are_poisson_samples() -> None:
    batches = list(poisson_batches(1000, 0.05, 400, stream("batches")))
    sizes = np.array([len(batch) for batch in batches])
    assert abs(sizes.mean() - 50) < 5 * np.sqrt(1000 * 0.05 * 0.95 / 400)
    assert 0.75 < sizes.var() / (1000 * 0.05 * 0.95) < 1.3
    seen = np.bincount(np.concatenate(batches), minlength=1000)
    assert abs(seen - 20).max() < 6 * np.sqrt(19)
    assert len(next(poisson_batches(7, 1.0, 1))) == 7
    with pytest.raises(ValueError, match="rate"):
        next(poisson_batches(7, 0.0, 1))
