# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A toy: the mean of a Gaussian
#
# The mean of many draws from $\mathcal N(\mu, \sigma^2)$ is close to $\mu$
# {cite:p}`kingma2013auto`. This page shows {result}`draws` draws with the mean
# {result}`mean-of-draws`.

# %% tags=["parameters"]
profile = "smoke"
device = "cpu"
seed = 0

# %%
# ruff: noqa: E402 (a notebook imports after its parameters)
import random

from IPython.display import HTML, display

from genbook.ledger import Ledger

claims = Ledger("toy", profile=profile, seed=seed)

# %% [markdown]
# ## The estimator
#
# $$
# \hat\mu = \frac1n \sum_{i=1}^n x_i, \qquad
# \operatorname{Var}[\hat\mu] = \frac{\sigma^2}{n}, \qquad
# \boldsymbol\theta \in \mathbb R^{n}
# $$ (eq-mean)
#
# By {eq}`eq-mean` the error falls as $1/\sqrt n$, see {ref}`toy-exercise`.

# %%
numbers = random.Random(seed)
draws = [numbers.gauss(1.0, 2.0) for _ in range(4000)]
mean = sum(draws) / len(draws)
print(f"mean {mean:.3f} of {len(draws)} draws on {device}")

# %%
bars = "".join(
    f'<rect x="{20 * i}" y="{90 - 8 * i}" width="14" height="{8 * i + 10}"/>' for i in range(10)
)
seen = "Ten bars that rise evenly from left to right."
pictures = "".join(
    f'<svg class="only-{theme}" role="img" aria-label="{seen}" viewBox="0 0 200 100" '
    f'fill="{color}">{bars}</svg>'
    for theme, color in (("light", "#1f4e79"), ("dark", "#a9d3fb"))
)
caption = f"<figcaption>Made-up bars, seed {seed}, n = 10.</figcaption>"
display(HTML(f'<figure class="gb-figure">{pictures}{caption}</figure>'))

# %%
head = "".join(f"<th scope='col'>column {i}</th>" for i in range(12))
row = "".join(f"<td>{i / 7:.6f}</td>" for i in range(12))
display(HTML(f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>"))

# %%
claims.value("draws", len(draws), unit="draws", format=",.0f")
claims.judge("mean-of-draws", ours=mean, spread=0.03)
claims.judge("identity", ours=sum(draws) - mean * len(draws))
claims.judge("order", ours=[1.0, 2.0, 3.0])
claims.judge("too-small", ours=None)
claims.judge("missed", ours=-12345.678)

# %%
claims.close()

# %% [markdown]
# ## The ledger of this chapter
#
# ```{ledger}
# ```
#
# ## Exercises
#
# ```{exercise}
# :label: toy-exercise
# How many draws halve the error?
# ```
#
# ```{solution} toy-exercise
# :class: dropdown
# Four times as many, by {eq}`eq-mean`. The recorded long run has {result}`mean-of-draws@long`
# where the paper has {result}`mean-of-draws.published`: {result}`mean-of-draws@long.verdict`.
# ```
