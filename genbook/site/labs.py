"""The labs: what a page needs for them, and the directive that puts one there.

    ```{lab} aevb
    :still: figure-4
    What the reader can do here.
    ```

The lab's script is `labs/NAME.js`, after `labs/NAME.PART.js` where it has parts; they are outside
`_static`, whose scripts every page loads.  Its weights, where it has some, are those that the run
of the page's chapter kept, or a recorded run of it; they travel as a script too, because a page
opened from disk may not read other files.  `still` names the figure of the run that stands there
without JavaScript.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from numpy.typing import NDArray

from genbook import runs
from genbook.site.pictures import EMBEDDED, thin

Tensors = dict[str, NDArray[np.float16]]
SCRIPTS = Path("labs")


def stage(folder: Path, fresh: Mapping[str, runs.Run]) -> None:
    """Write each chapter's weights as a script, and `labs.json`: what the directive says of them,
    and the figures of each run."""
    found: dict[str, Any] = {}
    for name, run in fresh.items():
        found[name] = {"stills": stills(run)}
        path, origin = weights_of(name, run)
        if path.exists():
            parcel, digest, size = pack(exported(name, path))
            script = folder / SCRIPTS / "weights" / f"{name}.js"
            script.parent.mkdir(exist_ok=True, parents=True)
            script.write_text(f'genbookLab.take("{name}", {json.dumps(parcel)});\n')
            command = origin.provenance["command"]
            found[name] |= {"weights": digest, "bytes": size, "command": command}
    (folder / "labs.json").write_text(json.dumps(found), encoding="utf-8")


def weights_of(name: str, run: runs.Run) -> tuple[Path, runs.Run]:
    """The file of weights for a chapter's lab, and the run that made them: the largest recorded
    one that kept some, else `run`."""
    for recorded in reversed(runs.recorded(name)):
        if recorded.weights is not None:
            return recorded.weights, recorded.first()
    return run.folder / runs.weights.FILE, run


def exported(name: str, path: Path) -> Tensors:
    """The kept weights of a chapter as its lab wants them."""
    from safetensors.numpy import load_file

    kept: Tensors = load_file(path)
    fold = {"cgan": by_label, "wae": of_squares}.get(name)
    return fold(kept) if fold else kept


DROPS = 10  # ways to drop units of the label layer that the page of the cGAN can choose from


def by_label(kept: Tensors) -> Tensors:
    """The generator of the cGAN chapter for one label at a time: what a label adds to the joint
    layer, `label` [10, 1200], in place of the weights that work it out, four fifths of them all;
    and in `dropped` [DROPS, 10, 1200] the same with half of the label's units dropped.  These are
    sums of a thousand terms, too large for 16 bits: what rounding takes away is in `NAME.rest`."""
    w = {key.partition("generator.")[2]: tensor.astype(np.float64) for key, tensor in kept.items()}
    of_z = len(w["z_layer.bias"])
    said = np.maximum(w["y_layer.weight"].T + w["y_layer.bias"], 0.0)
    of_drops = 2.0 * label_units(said.shape[1])[:, None] * said
    label, dropped = (
        units @ w["joint.weight"][:, of_z:].T + w["joint.bias"] for units in (said, of_drops)
    )
    folded = {
        "z.weight": w["z_layer.weight"], "z.bias": w["z_layer.bias"], "label": label,
        "dropped": dropped, "joint.weight": w["joint.weight"][:, :of_z],
        "out.weight": w["out.weight"], "out.bias": w["out.bias"],
    }  # fmt: skip
    for name in ("label", "dropped"):
        folded[f"{name}.rest"] = folded[name] - folded[name].astype(np.float16)
    return {key: tensor.astype(np.float16) for key, tensor in folded.items()}


def label_units(units: int) -> NDArray[np.bool_]:
    """The units of the label layer that are kept, each with probability 1/2: [DROPS, units]."""
    return np.random.default_rng(0).random((DROPS, units)) < 0.5


def of_squares(kept: Tensors) -> Tensors:
    """The nets of the WAE chapter's fading squares.  Their pictures have one number, the grey of
    the square, so that the encoder's first layer is the sum of its weights over the square."""
    inside = np.zeros((32, 32), dtype=bool)
    inside[8:24, 8:24] = True
    return {
        key: tensor[:, inside.ravel()].sum(axis=1, keepdims=True, dtype=np.float64).astype("<f2")
        if key.endswith("encoder.0.weight")
        else tensor
        for key, tensor in kept.items()
    }


def pack(tensors: Tensors) -> tuple[dict[str, Any], str, int]:
    """Tensors in little-endian float16, one after the other, in base64; with the SHA-256 and the
    number of the bytes."""
    content = b"".join(tensors[key].astype("<f2").tobytes() for key in sorted(tensors))
    shapes = {key: list(tensors[key].shape) for key in sorted(tensors)}
    parcel = {"tensors": shapes, "base64": base64.b64encode(content).decode()}
    return parcel, hashlib.sha256(content).hexdigest(), len(content)


def stills(run: runs.Run) -> dict[str, str]:
    """The light variant of each figure of a run, by its name, as it stands in the notebook."""
    pictures = {
        match[2]: match
        for cell in nbformat.read(run.notebook, as_version=4).cells
        for output in cell.get("outputs", [])
        for match in EMBEDDED.finditer(output.get("data", {}).get("text/html", ""))
    }
    found = {}
    for path in sorted((run.folder / "figures").glob("*.svg")):
        match = pictures.get(base64.b64encode(path.read_bytes()).decode())
        if match is not None:
            tag = match.string[match.string.rfind("<img", 0, match.start()) : match.start()]
            small = base64.b64encode(thin(path.read_text(encoding="utf-8")).encode()).decode()
            found[path.stem] = f"{tag}{match[1]}{small}{match[3]}>"
    return found


def scripts(name: str, source: Path) -> list[str]:
    """The files of a lab in the stage `source`, in the order in which a page needs them."""
    parts = sorted(path.name for path in (source / SCRIPTS).glob(f"{name}.*.js"))
    return ["lab.js", *parts, f"{name}.js"]


def markup(
    name: str, up: str, about: Mapping[str, Any], still: str, scripts: list[str]
) -> tuple[str, str]:
    """What stands before and after the words of a lab; `up` leads to the root of the site."""
    folder = f"{up}{SCRIPTS.as_posix()}"
    weights, says = "", ""
    if "weights" in about:
        weights = f' data-weights="{folder}/weights/{name}.js"'
        says = (
            f'<p class="gb-lab-weights">Weights: 16 bits each, {about["bytes"] / 1e6:.1f} MB, of '
            f"the run <code>{html.escape(about['command'])}</code>, SHA-256 "
            f"<code>{about['weights'][:16]}</code>.</p>"
        )
    opening = f'<div class="gb-lab" id="lab-{name}" data-lab="{name}"{weights}>'
    closing = (
        f'<div class="gb-lab-room"></div><noscript><p>Without JavaScript, a picture of it:</p>'
        f"{still}</noscript>{says}</div>"
        + "".join(f'<script defer src="{folder}/{script}"></script>' for script in scripts)
    )
    return opening, closing
