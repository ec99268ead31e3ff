"""The Parzen-window log-likelihood against direct sums and against what is known of it."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from genbook.metrics import parzen


def some(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.0])
def test_log_likelihood_is_a_mixture_of_gaussians(sigma: float) -> None:
    x, samples = some(7, 784, 0), some(30, 784, 1)
    ours = parzen.log_likelihood(x, samples, sigma=sigma, block=3)
    difference = x.double().numpy()[:, None] - samples.double().numpy()[None]
    exponent = -0.5 * (difference**2).sum(axis=2) / sigma**2
    log_z = 784 * math.log(sigma * math.sqrt(2 * math.pi))
    reference = logsumexp(exponent, axis=1) - math.log(30) - log_z
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-9)


def test_one_dimension_against_scipy() -> None:
    x, samples = torch.linspace(-2, 3, 11)[:, None], torch.tensor([[0.0], [1.0]])
    density = 0.5 * sum(norm(mu, 0.3).pdf(x[:, 0].double().numpy()) for mu in (0.0, 1.0))
    ours = parzen.log_likelihood(x, samples, sigma=0.3)
    np.testing.assert_allclose(ours, np.log(density), atol=1e-9)


def test_it_is_a_density() -> None:
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    density = parzen.log_likelihood(grid, torch.randn(5, 1), sigma=0.5).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-9)


def test_several_sigmas_at_once_are_the_same_as_one_by_one() -> None:
    x, samples = some(5, 20, 2), some(9, 20, 3)
    together = parzen.log_likelihood(x, samples, sigma=parzen.SIGMAS)
    for i, sigma in enumerate(parzen.SIGMAS):
        torch.testing.assert_close(together[i], parzen.log_likelihood(x, samples, sigma=sigma))


def test_one_sigma_gives_one_row_whatever_its_type() -> None:
    x, samples = some(5, 20, 2), some(9, 20, 3)
    whole = parzen.log_likelihood(x, samples, sigma=1)
    assert whole.shape == (5,)
    torch.testing.assert_close(whole, parzen.log_likelihood(x, samples, sigma=(1.0,))[0])


def test_the_grid_is_that_of_the_official_code() -> None:
    np.testing.assert_allclose(parzen.SIGMAS, np.logspace(-1, 0, 10), rtol=1e-15)


def test_the_best_sigma_of_the_grid_is_chosen() -> None:
    """For samples from N(0, s^2) around one centre the best single width is s itself."""
    x = 0.46 * torch.randn(2_000, 5, generator=torch.Generator().manual_seed(4))
    sigma = parzen.choose_sigma(x, torch.zeros(1, 5))
    assert sigma == pytest.approx(10 ** (-1 + 6 / 9))


def test_score_follows_the_protocol() -> None:
    test, validation, samples = some(50, 12, 5), some(1_200, 12, 6), some(80, 12, 7)
    validation[1_000:] = 100.0  # must not be looked at
    found = parzen.score(test, validation, samples)
    each = parzen.log_likelihood(test, samples, sigma=found.sigma).numpy()
    assert found.sigma in parzen.SIGMAS
    assert found.mean == pytest.approx(each.mean())
    assert found.error == pytest.approx(each.std() / math.sqrt(50))


def test_repeated_samples_change_nothing() -> None:
    x, samples = some(5, 20, 2), some(9, 20, 3)
    once, twice = (parzen.log_likelihood(x, samples.repeat(n, 1), sigma=0.2) for n in (1, 2))
    torch.testing.assert_close(once, twice)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        parzen.log_likelihood(some(3, 4, 0), some(3, 5, 0), sigma=0.1)
    with pytest.raises(ValueError, match="positive"):
        parzen.log_likelihood(some(3, 4, 0), some(3, 4, 0), sigma=0.0)
