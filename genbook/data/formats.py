"""Reading the file formats of the data sets: IDX, CIFAR binary, PNG, JPEG and MATLAB v5.

Nothing here can run code that a file carries: there is no pickle.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbook.data.files import DataError, looks_like_html

Bytes = NDArray[np.uint8]

IDX_UINT8 = 0x08  # third byte of the magic number; the fourth is the number of dimensions
CIFAR_PIXELS = 3 * 32 * 32
CIFAR_RECORD = 1 + CIFAR_PIXELS  # label byte, then the R, G and B planes
CELEBA_CROP = 140  # official code of WAE: "closecrop" of the aligned 178 x 218 images
CELEBA_SIZE = (178, 218)  # width, height
FREY_SHAPE = (560, 1965)  # pixels of one 28 x 20 image, number of images


def idx(raw: Bytes) -> Bytes:
    """The array in an IDX file of unsigned bytes, as a view of `raw` (shape from its header)."""
    if raw.size < 4 or raw[0] or raw[1] or raw[2] != IDX_UINT8:
        raise DataError("Not an IDX file of unsigned bytes: the magic number is wrong.")
    header = 4 + 4 * int(raw[3])
    if raw.size < header:
        raise DataError("The IDX file ends inside its header.")
    shape = tuple(int(n) for n in raw[4:header].copy().view(">u4"))
    body = raw[header:]
    if body.size != int(np.prod(shape)):
        raise DataError(f"The IDX header says {shape}, but {body.size} bytes follow it.")
    return body.reshape(shape)


def cifar(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Images [N,3,32,32] and labels [N] of a CIFAR-10 binary file, as views of `raw`."""
    if raw.size % CIFAR_RECORD:
        raise DataError(f"Not CIFAR-10 records: {raw.size} bytes is no multiple of {CIFAR_RECORD}.")
    records = raw.reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def cifar_records(pixels: Bytes, labels: Bytes) -> bytes:
    """CIFAR-10 records from images laid one a row, pixels [N,1024,3] row-major, labels [N]."""
    if pixels.shape != (len(labels), CIFAR_PIXELS // 3, 3):
        raise DataError(f"{pixels.shape} is not one 32 x 32 RGB image for {len(labels)} labels.")
    records = np.empty((len(labels), CIFAR_RECORD), dtype=np.uint8)
    records[:, 0] = labels
    records[:, 1:] = pixels.transpose(0, 2, 1).reshape(len(labels), CIFAR_PIXELS)
    return records.tobytes()


def png(path: Path) -> Bytes:
    """The pixels [H,W,3] of an RGB PNG."""
    image = _open_image(path, "PNG")
    if image.mode != "RGB":
        raise DataError(f"{path.name} is a PNG of mode {image.mode}, not RGB.")
    return np.asarray(image, dtype=np.uint8)


def label_list(path: Path) -> Bytes:
    """Labels 0..9 from a JSON list of integers."""
    try:
        labels = np.asarray(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DataError(f"{path.name} is not a JSON list of labels: {error}") from error
    if labels.ndim != 1 or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{path.name} is not a JSON list of labels 0 to 9.")
    return labels.astype(np.uint8)


def face(path: Path, size: int) -> Bytes:
    """One aligned CelebA image: centre crop of 140 x 140, resized to [3,size,size]."""
    from PIL.Image import Resampling

    image = _open_image(path, "JPEG").convert("RGB")
    if image.size != CELEBA_SIZE:
        raise DataError(
            f"{path} is {image.width} x {image.height}; the aligned and cropped CelebA images are "
            f"{CELEBA_SIZE[0]} x {CELEBA_SIZE[1]} (archive img_align_celeba.zip)."
        )
    left, top = ((side - CELEBA_CROP) // 2 for side in CELEBA_SIZE)
    crop = image.crop((left, top, left + CELEBA_CROP, top + CELEBA_CROP))
    small = crop.resize((size, size), Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8).transpose(2, 0, 1)


def photo(path: Path, size: int) -> Bytes:
    """A photograph of any shape: largest central square, resized to [3,size,size]."""
    from PIL.Image import Resampling

    image = _open_image(path, "JPEG").convert("RGB")
    side = min(image.size)
    left, top = ((extent - side) // 2 for extent in image.size)
    crop = image.crop((left, top, left + side, top + side))
    return np.asarray(crop.resize((size, size), Resampling.LANCZOS)).transpose(2, 0, 1)


def frey_faces(path: Path) -> Bytes:
    """The images [1965,28,20] of frey_rawface.mat (MATLAB v5, variable `ff`, 560 x 1965 uint8)."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]  # scipy ships no types
    except ImportError as error:
        raise DataError("Reading frey_rawface.mat needs scipy: pip install scipy.") from error
    with path.open("rb") as stream:
        head = stream.read(512)
    if looks_like_html(head):
        raise DataError(f"{path} is an HTML page, not a MATLAB file: download it again.")
    try:
        variables: dict[str, Any] = loadmat(path, variable_names=["ff"])
    # loadmat raises whatever its parser meets in a damaged file, down to TypeError.
    except Exception as error:
        raise DataError(f"{path} is not a whole MATLAB v5 file: {error}") from error
    faces = variables.get("ff")
    if faces is None or faces.shape != FREY_SHAPE or faces.dtype != np.uint8:
        found = "missing" if faces is None else f"{faces.dtype} {faces.shape}"
        raise DataError(f"{path}: the variable ff should be uint8 {FREY_SHAPE}, and is {found}.")
    return np.ascontiguousarray(faces.T).reshape(-1, 28, 20)


def _open_image(path: Path, kind: str) -> Any:
    """A decoded PIL image of the one kind of file expected, or a DataError that names it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"Reading {kind} images needs pillow: pip install pillow.") from error
    try:
        with Image.open(path, formats=[kind]) as image:
            image.load()
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a whole {kind} image: {error}") from error
