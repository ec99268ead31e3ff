"""A training step as a CUDA graph: a small network on a GPU waits for Python, which starts some
hundred kernels a step one by one; a graph starts them all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture, in which libraries choose their kernels


def capture(step: Callable[..., Tensor], *example: Tensor) -> Callable[..., Tensor]:
    """`step` as one CUDA graph, for arguments of the shapes and types of `example`.

    `step` sets gradients (from None) and gives a loss.  It must not change weights, because it is
    called here, and must not wait for the GPU.  What is returned takes the arguments of `step`,
    computes the same numbers by the same kernels, and gives the loss, in the same place each time.
    """
    held = [x.clone() for x in example]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*held)

    def replay(*arguments: Tensor) -> Tensor:
        for place, x in zip(held, arguments, strict=True):
            place.copy_(x)
        graph.replay()
        return loss

    return replay
