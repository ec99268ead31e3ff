"""The plain training step: batches from data that lies on the device, one optimiser step,
checkpoints that resume to the same weights, and a log that the command line shows."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.optim.optimizer import ParamsT

from genbook.ledger import ROOT, write_json

SECONDS_BETWEEN_CHECKPOINTS = 60.0
_seen: dict[str, int] = {}  # training images so far, by training: for the run's progress line
_expected = {"images": 0}


def run_folder() -> Path:
    """Where this run leaves its files: set by the command, else a scratch folder."""
    folder = Path(os.environ.get("GENBOOK_RUN_DIR") or ROOT / "_build" / "scratch" / "run")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stream(seed: int, name: str, device: str | torch.device = "cpu") -> Generator:
    """A generator of its own for every purpose, named: the same for a seed and a name."""
    return Generator(device).manual_seed(zlib.crc32(f"{seed}/{name}".encode()))


class Adagrad(torch.optim.Adagrad):
    """torch's Adagrad, whose step on the processor is the fused kernel and nothing else.

    torch keeps books around its kernel that nobody reads here; for small networks they cost as
    much time as the kernel.  On a GPU, where torch has no such kernel, this is torch's own step.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: nothing here needs one
        if not self.defaults["fused"]:
            super().step()
            return
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] for p in params]
            torch._fused_adagrad_(
                params,
                [p.grad for p in params],
                [state["sum"] for state in states],
                [state["step"] for state in states],  # only for a decay of lr, which is 0
                lr=group["lr"],
                lr_decay=0.0,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def adagrad(params: ParamsT, *, lr: float) -> Adagrad:
    """Adagrad (Duchi et al. 2010): accumulators start at 0, epsilon 1e-10.

    `params` as for any torch optimiser; a group may have its own weight_decay.
    """
    given = torch.optim.Adagrad(params, lr=lr).param_groups
    groups = [{k: group[k] for k in ("params", "lr", "weight_decay")} for group in given]
    on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
    return Adagrad(groups, fused=on_cpu or None)


class Training:
    """One model in training: its optimiser, its noise, its step count and what was noted.

    If the run's folder holds a checkpoint of this name, training goes on from there and ends with
    the same weights as an unbroken run: model, optimiser and random state are all in it.
    `history` is a dict of lists that a chapter may append numbers to; it is saved too.
    """

    def __init__(
        self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, generator: Generator
    ):
        self.name, self.model = name, model
        self.optimizer, self.generator = optimizer, generator
        self.count = 0
        self.seconds = 0.0
        self.history: dict[str, list[float]] = {}
        self._order: tuple[int, Tensor] | None = None  # the pass that is under way
        self._path = run_folder() / "checkpoints" / f"{name}.safetensors"
        if self._path.exists():
            self._load()

    def batches(
        self, images: Tensor, *, size: int, steps: int, passes: bool = False
    ) -> Iterator[Tensor]:
        """Minibatches x [size, D] in [0, 1] until `steps` steps are done, rows of `images` drawn
        with replacement ("random minibatch of M datapoints", Algorithm 1) or, with `passes`, in
        passes over all of them, shuffled anew for each; what is left of the last batch is dropped.

        `images` is uint8 [N, D] (scaled by 1/255 here) or floating point (taken as it is), on the
        model's device, so that nothing is copied from the host inside the loop.
        """
        torch.set_flush_denormal(True)  # denormal numbers halve the speed of some processors
        saved = started = time.monotonic()
        before = self.seconds
        while self.count < steps:
            x = images.index_select(0, self._rows(len(images), size, images.device, passes))
            yield x.float().div_(255.0) if x.dtype == torch.uint8 else x
            now = time.monotonic()
            self.seconds = before + now - started
            _seen[self.name] = self.count * size
            if now - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self.save()
                log_progress(self.name)
                saved = now
        _seen[self.name] = self.count * size
        self.save()
        log_progress(self.name)

    def _rows(self, n: int, size: int, device: torch.device, passes: bool) -> Tensor:
        """The rows of the next batch; a resumed training finds its place in a pass by its count."""
        if not passes:
            return torch.randint(n, (size,), generator=self.generator, device=device)
        if n < size:
            raise ValueError(f"{self.name}: a pass over {n} images has no batch of {size}")
        number, place = divmod(self.count, n // size)
        if self._order is None or self._order[0] != number:
            g = stream(self.generator.initial_seed(), f"pass {number}", device)
            self._order = number, torch.randperm(n, generator=g, device=device)
        return self._order[1][place * size : (place + 1) * size]

    def step(self, loss: Tensor) -> None:
        """One optimiser step on a scalar loss."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None  # as zero_grad, without its books
        loss.backward()
        self.optimizer.step()
        self.count += 1

    def note(self, **numbers: float) -> None:
        """Append numbers to the history, under their names."""
        for name, number in numbers.items():
            self.history.setdefault(name, []).append(float(number))

    def save(self) -> None:
        """Write model, optimiser, random state and history in one atomic file (no pickle)."""
        tensors = {f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
        tensors["generator"] = self.generator.get_state()
        notes = {"count": self.count, "seconds": self.seconds, "history": self.history}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, partial, metadata={"notes": json.dumps(notes)})
        os.replace(partial, self._path)

    def _load(self) -> None:
        tensors = load_file(self._path)
        notes = json.loads(_metadata(self._path)["notes"])
        self.count, self.seconds = notes["count"], notes["seconds"]
        self.history = notes["history"]
        self.generator.set_state(tensors.pop("generator"))
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k[0] == "m"}
        self.model.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, field = key.split(".", 2)
                state.setdefault(int(index), {})[field] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _metadata(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    notes: dict[str, str] = header["__metadata__"]
    return notes


def expect(*, images: int) -> None:
    """Say how many training images the whole run will see, so that it can tell how far it is."""
    _expected["images"] = images


def log_progress(what: str) -> None:
    """Append one line to the run's log.jsonl, which the command line shows while a run works."""
    expected = _expected["images"]
    done = min(sum(_seen.values()) / expected, 0.99) if expected else None
    line = {"event": "progress", "what": what, "done": done, "time": round(time.time(), 1)}
    with (run_folder() / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def remember(name: str, compute: Any) -> Any:
    """The JSON value of `compute()`, computed once in a run and kept with its checkpoints.

    For long measurements that are not a training, so that a resumed run does not repeat them.
    """
    path = run_folder() / "checkpoints" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, compute())
        log_progress(name)
    return json.loads(path.read_text(encoding="utf-8"))
