"""Hamiltonian Monte Carlo, and the estimator of log p(x) of Kingma & Welling 2013, appendix D.

One chain for every data point, all moved together: z is [M, J], a log-density is [M].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Transition:
    """The state after one trajectory [M, J] and its acceptance probability [M]."""

    z: Tensor
    accept: Tensor


def _grad(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def leapfrog(
    log_density: LogDensity, z: Tensor, momentum: Tensor, *, step_size: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`steps` leapfrog steps of size [M, 1] under unit mass; returns z, momentum, and the
    log-density at the start and at the end.  Reversible and volume-preserving."""
    start, gradient = _grad(log_density, z)
    end = start
    for _ in range(steps):
        momentum = momentum + 0.5 * step_size * gradient
        z = z + step_size * momentum
        end, gradient = _grad(log_density, z)
        momentum = momentum + 0.5 * step_size * gradient
    return z, momentum, start, end


def hmc_step(
    log_density: LogDensity, z: Tensor, *, step_size: Tensor, steps: int, generator: Generator
) -> Transition:
    """One trajectory with a Metropolis test: leaves exp(log_density) invariant for every chain."""
    momentum = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
    new, p, start, end = leapfrog(log_density, z, momentum, step_size=step_size, steps=steps)
    energy = end - start + 0.5 * (momentum.square().sum(-1) - p.square().sum(-1))
    accept = energy.nan_to_num(nan=-math.inf).clamp(max=0.0).exp()
    u = torch.rand(accept.shape, generator=generator, device=z.device, dtype=z.dtype)
    return Transition(torch.where((u < accept)[:, None], new, z), accept)


def tune(step_size: Tensor, accept: Tensor, *, target: float = 0.9, rate: float = 0.5) -> Tensor:
    """Move the step size towards the acceptance rate of appendix E (90 %).  Tuning breaks the
    invariance of the chain, so samples are only kept after it has stopped.  At `rate` 0.5 (ours) a
    step grows by 5 % a trajectory at most, and a chain is in tune after about 60 of them."""
    return step_size * (rate * (accept - target)).exp()


@dataclass(frozen=True)
class Chain:
    """Draws from the posterior [L, M, J], the tuned step sizes [M, 1] and the mean acceptance."""

    draws: Tensor
    step_size: Tensor
    acceptance: float


def sample_posterior(
    log_density: LogDensity, z: Tensor, *, draws: int, burn_in: int, generator: Generator,
    steps: int = 4, step_size: float | Tensor = 0.1,
) -> Chain:  # fmt: skip
    """`burn_in` trajectories that tune a step size for every chain, then `draws` kept ones.

    The step of a trajectory is drawn between 0.5 and 1.5 times the tuned one (ours; after Neal
    2011): trajectories of one fixed length turn in step with a nearly Gaussian posterior, the chain
    then never mixes, and an estimate of log p(x) was seen to be wrong by 2 nats.
    """
    size = step_size if isinstance(step_size, Tensor) else torch.full_like(z[:, :1], step_size)

    def move(z: Tensor) -> Transition:
        u = torch.rand(size.shape, generator=generator, device=z.device, dtype=z.dtype)
        return hmc_step(
            log_density, z, step_size=(0.5 + u) * size, steps=steps, generator=generator
        )

    for _ in range(burn_in):
        t = move(z)
        z, size = t.z, tune(size, t.accept[:, None])
    kept, accept = [], 0.0
    for _ in range(draws):
        t = move(z)
        z, accept = t.z, accept + t.accept.mean().item()
        kept.append(z)
    return Chain(torch.stack(kept), size, accept / max(draws, 1))


def fit_gaussian(draws: Tensor) -> torch.distributions.MultivariateNormal:
    """A Gaussian with full covariance fitted to draws [L, M, J] of each of M posteriors."""
    mean = draws.mean(dim=0)
    centred = (draws - mean).transpose(0, 1)
    cov = centred.transpose(1, 2) @ centred / (len(draws) - 1)
    jitter = 1e-6 * cov.diagonal(dim1=1, dim2=2).mean(dim=-1).clamp(min=1e-12)
    cov = cov + jitter[:, None, None] * torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return torch.distributions.MultivariateNormal(mean, cov)


def marginal_likelihood(
    log_joint: LogDensity, z: Tensor, *, draws: int, burn_in: int, generator: Generator,
    steps: int = 4,
) -> Tensor:  # fmt: skip
    """log p(x) of each data point by appendix D, in nats: [M].

    (1) L = `draws` posterior samples by HMC, (2) a density q fitted to them, (3) L new posterior
    samples and  p(x) ~ ( 1/L sum_l q(z_l) / (p(z_l) p(x|z_l)) )^-1.  `log_joint` maps z [M, J] to
    log p(x, z) [M].  The paper leaves the density open; here it is a Gaussian with full covariance.
    Good for a few latent dimensions only (the paper says fewer than 5): refuses draws <= J + 1.
    """
    if draws <= z.shape[-1] + 1:
        raise ValueError(f"{draws} draws cannot fit a covariance in {z.shape[-1]} dimensions")
    first = sample_posterior(
        log_joint, z, draws=draws, burn_in=burn_in, generator=generator, steps=steps
    )
    q = fit_gaussian(first.draws.double())
    second = sample_posterior(
        log_joint, first.draws[-1], draws=draws, burn_in=0, generator=generator, steps=steps,
        step_size=first.step_size,
    )  # fmt: skip
    with torch.no_grad():
        log_ratio = torch.stack([q.log_prob(z.double()) - log_joint(z) for z in second.draws])
    return math.log(draws) - log_ratio.logsumexp(dim=0)
