"""Several processes that share one training: the same step as one process, and one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genbook import runs
from genbook.runs import store
from genbook.runs.identity import identity

TRAINING = """
# %%
import os, pathlib, signal, torch
from safetensors.torch import save_file
from torch import nn
from genbook import parallel, training

torch.manual_seed(0)
folder = training.run_folder()
images = torch.randn(60, 5)
places = torch.arange(60)
model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
training.SECONDS_BETWEEN_CHECKPOINTS = 0.0
parallel.begin_alike("main")
t = training.Training(
    "main", model, torch.optim.Adam(model.parameters(), lr=0.05), training.stream(seed, "main")
)
rows = parallel.share(12)
for i in t.batches(places, size=12, steps=30, passes=True):
    x = images[i][rows]
    for p in model.parameters():
        p.grad = None
    loss = (model(x) - x.prod(dim=1, keepdim=True)).square().mean()
    loss.backward()
    parallel.average(*(p.grad for p in model.parameters()))
    t.optimizer.step()
    t.count += 1
    if t.count == 17 and HALT:
        if parallel.rank() == parallel.processes() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

# %%
paths = [folder / "checkpoints" / f"block-{n}.safetensors" for n in range(5)]
for n, path in enumerate(paths):
    if parallel.mine(n):
        save_file({"x": torch.full((2,), float(n)), "by": torch.tensor(parallel.rank())}, path)
parallel.collect(paths)
from safetensors.torch import load_file
blocks = [load_file(path) for path in paths]
print("blocks", [b["x"][0].item() for b in blocks], "by", [b["by"].item() for b in blocks])
save_file(dict(model.state_dict()), folder / f"weights.safetensors")
"""


def run(chapter: Callable[[str], None], processes: int, *, halt: bool = False) -> store.Run:
    chapter(TRAINING.replace("HALT", str(halt)))
    request = runs.Request("tiny", engine="script", processes=processes)
    (made,) = runs.execute([request], quiet=True, timeout=120)
    return made


def weights(made: store.Run) -> dict[str, torch.Tensor]:
    return load_file(made.folder / "weights.safetensors")


def test_three_make_the_step_of_one(project: Path, chapter: Callable[[str], None]) -> None:
    one, three = run(chapter, 1), run(chapter, 3)
    assert one.folder != three.folder
    for key, expected in weights(one).items():
        torch.testing.assert_close(weights(three)[key], expected, rtol=1e-4, atol=1e-5)
    output = (three.folder / "output.txt").read_text()
    assert "blocks [0.0, 1.0, 2.0, 3.0, 4.0] by [0, 1, 2, 0, 1]" in output
    assert output.count("blocks") == 1, "only the first process speaks"
    assert not (three.folder / "processes").exists()
    provenance = json.loads((three.folder / "provenance.json").read_text())
    assert provenance["processes"] == 3
    assert provenance["command"].endswith("--engine script --processes 3")


def test_a_process_that_is_killed_ends_the_run_which_goes_on_to_the_same_weights(
    project: Path, chapter: Callable[[str], None]
) -> None:
    unbroken = weights(run(chapter, 2))
    path = project / "chapters" / "tiny.py"
    once = 'not (folder / "halted").exists() and not (folder / "halted").touch()'
    chapter(TRAINING.replace("HALT", once))
    request = runs.Request("tiny", engine="script", processes=2)
    assert path.exists()
    with pytest.raises(runs.RunFailedError):
        runs.execute([request], quiet=True, timeout=120)
    part = store.part_of(store.folder_of(request, identity(request)))
    assert 0 < count_of(part / "checkpoints" / "main.safetensors") <= 17
    (resumed,) = runs.execute([request], quiet=True, timeout=120)
    for key, expected in unbroken.items():
        assert torch.equal(weights(resumed)[key], expected), key


def count_of(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        notes = json.loads(file.read(size))["__metadata__"]["notes"]
    return int(json.loads(notes)["count"])


def test_the_reason_is_that_of_the_process_that_failed(
    project: Path, chapter: Callable[[str], None]
) -> None:
    chapter(
        "\n# %%\nimport torch\nfrom genbook import parallel\n"
        "if parallel.rank():\n    raise ValueError('this one')\n"
        "parallel.average(torch.ones(3))\n"
    )
    request = runs.Request("tiny", engine="script", processes=2)
    with pytest.raises(runs.RunFailedError, match="ValueError: this one"):
        runs.execute([request], quiet=True, timeout=120)


def test_a_batch_that_cannot_be_shared(project: Path, chapter: Callable[[str], None]) -> None:
    with pytest.raises(runs.RunFailedError, match="5 processes cannot share a batch of 12 equally"):
        run(chapter, 5)


def test_what_cannot_have_several(project: Path, chapter: Callable[[str], None]) -> None:
    with pytest.raises(runs.ChapterError, match="--engine script"):
        runs.Request("tiny", processes=2)
    chapter("")
    with pytest.raises(runs.ChapterError, match="tiny trains in one process"):
        runs.execute([runs.Request("tiny", engine="script", processes=2)], quiet=True)


def test_each_process_sees_one_gpu(
    project: Path, chapter: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    chapter(
        'import os, pathlib\nfrom genbook import parallel, training\n'
        'folder = training.run_folder()\n'
        'first = folder.parents[1] if parallel.rank() else folder\n'
        '(first / f"gpu-{parallel.rank()}.txt").write_text(os.environ["CUDA_VISIBLE_DEVICES"])\n'
        'parallel.collect([])\n'
    )  # fmt: skip
    request = runs.Request("tiny", engine="script", processes=2)
    (made,) = runs.execute([request], quiet=True, timeout=120)
    assert [(made.folder / f"gpu-{n}.txt").read_text() for n in (0, 1)] == ["4", "7"]
