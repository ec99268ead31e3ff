"""Hamiltonian Monte Carlo: the integrator, the invariant distribution, and appendix D."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genbook import aevb, hmc

COV = torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
MEAN = torch.tensor([0.5, -1.0]).double()
TARGET = MultivariateNormal(MEAN, COV)


def bent(z: Tensor) -> Tensor:
    """A density without symmetry, so that no error of the integrator can cancel."""
    return -0.5 * z[:, 0] ** 2 - 0.5 * (z[:, 1] - z[:, 0].sin()) ** 2 - 0.1 * z[:, 1] ** 4


def start(chains: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z, momentum = torch.randn(2, chains, 2, generator=g, dtype=torch.float64)
    return z, momentum


def energy(z: Tensor, momentum: Tensor) -> Tensor:
    return 0.5 * momentum.square().sum(-1) - bent(z)


def test_leapfrog_runs_backwards():
    z, momentum = start(5)
    step_size = torch.linspace(0.05, 0.4, 5).double()[:, None]
    there, p, begin, end = hmc.leapfrog(bent, z, momentum, step_size=step_size, steps=9)
    back, q, end_again, begin_again = hmc.leapfrog(bent, there, -p, step_size=step_size, steps=9)
    assert (there - z).abs().min() > 1e-3
    # Rounding of float64 over 18 steps.
    torch.testing.assert_close(back, z, rtol=0, atol=1e-12)
    torch.testing.assert_close(q, -momentum, rtol=0, atol=1e-12)
    torch.testing.assert_close((begin, end), (begin_again, end_again), rtol=0, atol=1e-12)
    torch.testing.assert_close((begin, end), (bent(z), bent(there)), rtol=0, atol=0)


def test_leapfrog_is_the_textbook_step_in_each_chain_s_own_size():
    z, momentum = start(3)
    sizes = torch.tensor([[0.1], [0.2], [0.3]]).double()
    ours = hmc.leapfrog(lambda z: -0.5 * z.square().sum(-1), z, momentum, step_size=sizes, steps=2)
    q, p, e = z.numpy(), momentum.numpy(), sizes.numpy()
    for _ in range(2):
        p = p - 0.5 * e * q
        q = q + e * p
        p = p - 0.5 * e * q
    np.testing.assert_allclose(ours[0], q, rtol=1e-12)
    np.testing.assert_allclose(ours[1], p, rtol=1e-12)


def test_leapfrog_keeps_volume():
    h, step_size = 1e-4, torch.full((8, 1), 0.3).double()
    z, momentum = start(1)
    point = torch.cat([z, momentum], dim=1)
    eye = torch.eye(4).double()
    moved = torch.cat([point + h * eye, point - h * eye])
    there, p, *_ = hmc.leapfrog(bent, moved[:, :2], moved[:, 2:], step_size=step_size, steps=5)
    ends = torch.cat([there, p], dim=1)
    jacobian = (ends[:4] - ends[4:]) / (2 * h)
    # Central differences: h^2 = 1e-8 of truncation times third derivatives of order 10.
    assert torch.linalg.det(jacobian).item() == pytest.approx(1.0, abs=1e-6)


def test_the_energy_error_falls_as_the_square_of_the_step():
    z, momentum = start(200)
    errors = []
    for steps in (20, 40, 80):  # a trajectory of length 2
        step_size = torch.full((200, 1), 2.0 / steps).double()
        there, p, *_ = hmc.leapfrog(bent, z, momentum, step_size=step_size, steps=steps)
        errors.append((energy(there, p) - energy(z, momentum)).abs().mean().item())
    # Order 2 is a ratio of 4; order 1 would be 2 and order 4 would be 16.
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.02)


def test_a_transition_leaves_a_gaussian_invariant():
    g, chains = torch.Generator().manual_seed(1), 40_000
    z = MEAN + torch.randn(chains, 2, generator=g).double() @ torch.linalg.cholesky(COV).T
    step_size = torch.full((chains, 1), 0.9).double()
    accepted = []
    for _ in range(4):
        t = hmc.hmc_step(TARGET.log_prob, z, step_size=step_size, steps=3, generator=g)
        z = t.z
        accepted.append(t.accept.mean().item())
    # Coarse enough that the Metropolis test matters: without it the variance is far off.
    assert 0.4 < np.mean(accepted) < 0.9
    standardised = torch.linalg.solve_triangular(
        torch.linalg.cholesky(COV), (z - MEAN).T, upper=False
    )
    # 5 standard errors of means (1 / sqrt n) and (co)variances (sqrt(2 / n) or less).
    assert standardised.mean(1).abs().max() < 5 / math.sqrt(chains)
    assert (standardised.cov() - torch.eye(2)).abs().max() < 5 * math.sqrt(2 / chains)
    # Mixed, not merely standing still: four transitions forget most of the start.
    assert (t.accept > 0.99).double().mean() < 0.9


def test_the_acceptance_probability_is_that_of_the_energy():
    z, _ = start(50)
    step_size = torch.full((50, 1), 0.8).double()
    t = hmc.hmc_step(
        bent, z, step_size=step_size, steps=3, generator=torch.Generator().manual_seed(3)
    )
    g = torch.Generator().manual_seed(3)
    momentum = torch.randn(z.shape, generator=g, dtype=z.dtype)
    there, p, *_ = hmc.leapfrog(bent, z, momentum, step_size=step_size, steps=3)
    reference = (energy(z, momentum) - energy(there, p)).exp().clamp(max=1.0)
    torch.testing.assert_close(t.accept, reference, rtol=1e-10, atol=0)
    moved = (t.z == there).all(-1)
    assert (moved | (t.z == z).all(-1)).all()
    assert 0 < moved.sum() < 50
    assert moved[t.accept == 1].all()


def test_a_trajectory_that_leaves_the_domain_is_rejected():
    def half_plane(z: Tensor) -> Tensor:
        return z.log().sum(-1) - z.sum(-1)  # nan for a negative z

    z = torch.full((100, 1), 1.5).double()
    step_size = torch.full((100, 1), 2.0).double()
    t = hmc.hmc_step(
        half_plane, z, step_size=step_size, steps=1, generator=torch.Generator().manual_seed(0)
    )
    assert (t.z > 0).all()
    assert t.accept.isfinite().all()
    assert (t.accept == 0).any()


def test_tune_moves_towards_the_target():
    size = torch.tensor([[0.1], [0.1], [0.1]])
    tuned = hmc.tune(size, torch.tensor([[1.0], [0.9], [0.2]]))
    assert tuned[0] > 0.1
    assert tuned[1].item() == pytest.approx(0.1, rel=1e-6)
    assert tuned[2] < 0.1


def test_sampling_from_a_bad_start_reaches_the_target_and_its_acceptance():
    z = torch.full((300, 2), 4.0).double()
    chain = hmc.sample_posterior(
        TARGET.log_prob, z, draws=60, burn_in=80, generator=torch.Generator().manual_seed(0)
    )
    assert chain.draws.shape == (60, 300, 2)
    assert chain.step_size.shape == (300, 1)
    # Appendix E tunes to 90 %; a chain's own estimate is noisy, the mean of 300 is not.
    assert chain.acceptance == pytest.approx(0.9, abs=0.05)
    flat = chain.draws.reshape(-1, 2)
    # 300 independent chains: standard error at most 1 / sqrt(300) = 0.058 even without mixing.
    torch.testing.assert_close(flat.mean(0), MEAN, rtol=0, atol=0.15)
    torch.testing.assert_close(flat.T.cov(), COV, rtol=0, atol=0.2)


def test_fit_gaussian_is_the_mean_and_covariance_of_each_point_s_draws():
    draws = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    draws = draws * torch.tensor([1.0, 5.0]) + torch.arange(3.0).double()[:, None]
    fitted = hmc.fit_gaussian(draws)
    for m in range(3):
        np.testing.assert_allclose(fitted.mean[m], draws[:, m].numpy().mean(0), rtol=1e-12)
        # The diagonal is lifted by a millionth of its mean, to stay positive definite.
        np.testing.assert_allclose(
            fitted.covariance_matrix[m], np.cov(draws[:, m].numpy().T), rtol=0, atol=1e-4
        )


def test_marginal_likelihood_of_the_linear_gaussian():
    torch.manual_seed(0)
    toy = aevb.LinearGaussian(torch.randn(6, 2).double(), torch.randn(6).double(), 0.7)
    x = torch.randn(40, 6).double()
    z = torch.zeros(40, 2).double()
    ours = hmc.marginal_likelihood(
        lambda z: toy.log_joint(x, z), z, draws=300, burn_in=100,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    error = ours - toy.log_marginal(x)
    assert ours.shape == (40,)
    # q misses the posterior by 5 fitted numbers, KL about 5 / (2 L); the ratio q / p(z|x) then
    # spreads by sqrt(5 / L) = 0.13 a draw, and its mean over L = 300 by 0.0075 (0.02 with the
    # correlation of the draws).  Five times that for a point, and the mean over 40 points.
    assert error.abs().max() < 0.1
    assert abs(error.mean().item()) < 0.02


def test_marginal_likelihood_of_a_true_vae_by_quadrature():
    vae = aevb.VAE(pixels=4, hidden=3, latents=1).double()
    aevb.init_normal(vae, std=0.8, generator=torch.Generator().manual_seed(5))
    x = (torch.rand(10, 4, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    node, weight = np.polynomial.hermite.hermgauss(60)
    nodes = torch.from_numpy(math.sqrt(2) * node)[:, None, None].expand(60, 10, 1)
    with torch.no_grad():
        likelihood = vae.decoder.log_likelihood(x, nodes).exp().numpy()
    exact = np.log(weight @ likelihood / math.sqrt(math.pi))
    ours = hmc.marginal_likelihood(
        lambda z: vae.log_joint(x, z), torch.zeros(10, 1).double(), draws=300, burn_in=100,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    # As above, and the posterior is not Gaussian: the ratio spreads by some tenths a draw.
    np.testing.assert_allclose(ours, exact, rtol=0, atol=0.1)


def test_marginal_likelihood_refuses_draws_that_cannot_span_the_covariance():
    def density(z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(-1)

    z, g = torch.zeros(2, 3).double(), torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="4 draws cannot fit a covariance in 3 dimensions"):
        hmc.marginal_likelihood(density, z, draws=4, burn_in=1, generator=g)
    ours = hmc.marginal_likelihood(density, z, draws=5, burn_in=1, generator=g)
    assert ours.isfinite().all()


def test_the_same_generator_gives_the_same_chain():
    first, second = (
        hmc.sample_posterior(
            bent, torch.zeros(3, 2), draws=4, burn_in=3, generator=torch.Generator().manual_seed(9)
        ).draws
        for _ in range(2)
    )
    assert torch.equal(first, second)
