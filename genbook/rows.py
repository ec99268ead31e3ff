"""Networks that read and write an image row by row: x is [M, n, P], n rows of P values.

The encoders of delta-VAEs (Razavi et al. 2019) reverse a causal network and pool each row, so that
the latent of a row knows the row and what comes after it.  Here a GRU over rows does the same at a
cost that a processor can pay.  The decoder is a row-wise autoregressive net in the manner of the
Row LSTM (van den Oord et al. 2016, Pixel Recurrent Neural Networks): a GRU carries the rows above,
and inside a row gated layers with masks (Germain et al. 2015, MADE) see the values to the left.
Sizes are ours.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional


class AntiCausalEncoder(nn.Module):
    """mu_t and log_var_t from rows t, t + 1, ... n: a GRU from the last row to the first."""

    def __init__(self, *, values: int, hidden: int, latents: int):
        super().__init__()
        self.latents = latents
        self.gru = nn.GRU(values, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gru(x.flip(1))[0].flip(1)
        mu, log_var = self.out(h).chunk(2, dim=-1)
        return mu, log_var


class NonCausalEncoder(nn.Module):
    """mu_t and log_var_t from all rows: two GRUs, one in each direction.

    One of them is the anti-causal encoder's: this one can do all that the other can.
    """

    def __init__(self, *, values: int, hidden: int, latents: int):
        super().__init__()
        self.latents = latents
        self.gru = nn.GRU(values, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, 2 * latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_var = self.out(self.gru(x)[0]).chunk(2, dim=-1)
        return mu, log_var


class MaskedLinear(nn.Linear):
    """A linear layer in which some weights are held at 0: mask [out, in]."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class GatedRow(nn.Module):
    """u + tanh(a) sigmoid(b); a and b come from the units and from the state of the rows above."""

    def __init__(self, mask: Tensor, above: int):
        super().__init__()
        self.units = MaskedLinear(torch.cat([mask, mask]))
        self.above = nn.Linear(above, 2 * len(mask), bias=False)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        a, b = (self.units(u) + self.above(h)).chunk(2, dim=-1)
        return u + torch.tanh(a) * torch.sigmoid(b)


class RowDecoder(nn.Module):
    """p(x|z) = prod_t prod_c Bernoulli(x_tc; x_before, z_1..t): a logit for every value of a row.

    Unit j inside a row has degree m_j in 0 .. P - 1 and sees the values c < m_j; the logit of value
    c reads the units of degree <= c: it sees the values to its left, all rows above, z_1 .. z_t.
    Raises ValueError with fewer units than values, where some value would see too little.
    """

    def __init__(self, *, values: int, hidden: int, latents: int, units: int, layers: int = 2):
        super().__init__()
        if units < values:
            raise ValueError(f"{units} units for {values} values: a value has no unit of its own")
        self.values = values
        self.gru = nn.GRU(values + latents, hidden, batch_first=True)
        degree = torch.arange(units) * values // units
        column = torch.arange(values)
        self.enter = MaskedLinear(column[None] < degree[:, None])
        self.state = nn.Linear(hidden, units, bias=False)
        same_row = degree[None] <= degree[:, None]
        self.layers = nn.ModuleList(GatedRow(same_row, hidden) for _ in range(layers))
        self.out = MaskedLinear(degree[None] <= column[:, None])

    def above(self, x: Tensor, z: Tensor) -> Tensor:
        """The state of the rows above, and of z up to the row: [M, n, hidden]."""
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.gru(torch.cat([before, z], dim=-1))[0]

    def inside(self, x: Tensor, h: Tensor) -> Tensor:
        """Logits of a row [..., P] from its values (only those to the left count) and the state."""
        u = self.enter(x) + self.state(h)
        for layer in self.layers:
            u = layer(u, h)
        return self.out(u)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.inside(x, self.above(x, z))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) of binary x [M, n, P] -> [M], nats, summed over all values."""
        loss = functional.binary_cross_entropy_with_logits(self(x, z), x, reduction="none")
        return -loss.sum(dim=(-2, -1))

    @torch.no_grad()
    def sample(self, z: Tensor, *, random: Generator | None = None) -> Tensor:
        """x [M, n, P] given z [M, n, K], value by value."""
        examples, n, _ = z.shape
        x, state = z.new_zeros(examples, n, self.values), None
        row = x[:, 0]
        for t in range(n):
            h, state = self.gru(torch.cat([row, z[:, t]], dim=-1)[:, None], state)
            row = torch.zeros_like(row)
            for c in range(self.values):
                p = torch.sigmoid(self.inside(row, h[:, 0])[:, c])
                row[:, c] = torch.bernoulli(p, generator=random)
            x[:, t] = row
        return x
