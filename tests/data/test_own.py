"""The loaders of the reader's own files, on small files of the true format."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from genbook import data
from genbook.data import files, formats, own


def test_absent_sets_say_what_to_put_where(cache):
    for name, what in {
        "frey_face": "frey_rawface.mat",
        "celeba": "img_align_celeba/000001.jpg",
        "mir_flickr": "mirflickr/meta/tags/tags1.txt exist. To have the annotations",
    }.items():
        assert not data.available(name)
        assert data.fingerprint(name) == "absent"
        for act in (data.load, data.fetch, data.verify):
            with pytest.raises(data.DataError) as caught:
                act(name)
            assert what in str(caught.value)
            assert str(cache / name) in str(caught.value)
    assert not cache.exists(), "asking makes no folder"


@pytest.fixture
def faces(cache):
    """frey_rawface.mat as it is: ff uint8 [560,1965], each column one 28 x 20 image by rows."""
    pictures = np.random.default_rng(3).integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    path = cache / "frey_face" / "frey_rawface.mat"
    path.parent.mkdir(parents=True)
    savemat(path, {"ff": pictures.reshape(1965, 560).T})
    return path, pictures


def test_frey_face(faces):
    path, pictures = faces
    loaded = data.load("frey_face")
    assert loaded.train_images.dtype == torch.uint8
    assert np.array_equal(loaded.train_images.numpy(), pictures)
    assert loaded.train_labels is None
    assert loaded.test_images.shape == (0, 28, 20)
    assert data.available("frey_face")
    assert data.verify("frey_face") == [("frey_rawface.mat", True)]
    before = data.fingerprint("frey_face")
    assert before == data.fingerprint("frey_face")
    pictures[0, 0, 0] ^= 1
    savemat(path, {"ff": pictures.reshape(1965, 560).T})
    assert data.fingerprint("frey_face") != before


def test_frey_face_that_is_not_one(faces):
    path, pictures = faces
    whole = path.read_bytes()
    for content, match in {
        b"<html>Quota</html>": "HTML page",
        b"not matlab at all" * 50: "not a whole MATLAB",
        whole[: len(whole) // 2]: "not a whole MATLAB",
    }.items():
        path.write_bytes(content)
        with pytest.raises(data.DataError, match=match):
            data.load("frey_face")
        assert path.read_bytes() == content, "the reader's file stays as it is"
        assert data.verify("frey_face") == [("frey_rawface.mat", False)]
    savemat(path, {"ff": pictures[:10].reshape(10, 560).T})
    with pytest.raises(data.DataError, match=r"\(560, 1965\)"):
        data.load("frey_face")
    savemat(path, {"other": 1})
    with pytest.raises(data.DataError, match="missing"):
        data.load("frey_face")


@pytest.fixture
def celeba(cache):
    """Six aligned images, 178 x 218 JPEG; the centre square of 140 has its own colour."""
    folder = cache / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(6):
        picture = np.zeros((218, 178, 3), dtype=np.uint8)
        picture[39:179, 19:159] = (40 * i, 128, 255 - 40 * i)
        Image.fromarray(picture).save(folder / f"{i + 1:06d}.jpg", quality=98)
    return folder.parent


def test_celeba_without_partition(celeba):
    loaded = data.load("celeba")
    assert loaded.train_images.shape == (6, 3, 64, 64)
    assert loaded.test_images.shape == (0, 3, 64, 64)
    # The crop is the centre exactly: no black border reaches in. JPEG costs a few grey levels.
    centre = loaded.train_images[:, :, 2:-2, 2:-2].float()
    want = torch.tensor([[40 * i, 128, 255 - 40 * i] for i in range(6)], dtype=torch.float32)
    assert (centre - want[:, :, None, None]).abs().max() < 12
    assert (loaded.train_images[:, 1].float() - 128).abs().max() < 40


def test_celeba_by_partition(celeba):
    codes = [0, 0, 1, 2, 0, 2]
    text = "".join(f"{i + 1:06d}.jpg {code}\n" for i, code in enumerate(codes))
    (celeba / "list_eval_partition.txt").write_text(text)
    loaded = data.load("celeba")
    assert len(loaded.train_images) == 3
    assert len(loaded.test_images) == 2
    assert abs(float(loaded.test_images[0, 0, 32, 32]) - 120) < 6
    (celeba / "list_eval_partition.txt").write_text(text.replace("000004.jpg 2\n", ""))
    with pytest.raises(data.DataError, match=r"does not list 000004\.jpg"):
        data.load("celeba")
    (celeba / "list_eval_partition.txt").write_text(text + "000007.jpg\n")
    with pytest.raises(data.DataError, match="line 7"):
        data.load("celeba")


def test_celeba_conversion_is_kept_and_follows_the_files(celeba, monkeypatch):
    first = data.load("celeba").train_images
    kept = celeba / "converted-64.safetensors"
    assert kept.exists()
    with monkeypatch.context() as patch:
        patch.setattr(formats, "face", None)  # a second decoding would fail
        assert torch.equal(data.load("celeba").train_images, first)

    spoilt = bytearray(kept.read_bytes())
    spoilt[-1] ^= 1
    kept.write_bytes(spoilt)
    assert torch.equal(data.load("celeba").train_images, first), "made again from the files"

    Image.new("RGB", (178, 218), (255, 0, 0)).save(celeba / "img_align_celeba" / "000007.jpg")
    assert len(data.load("celeba").train_images) == 7


def test_celeba_in_a_folder_that_cannot_be_written(celeba, monkeypatch):
    def refuse(*args: object) -> None:
        raise files.CacheError("read-only")

    monkeypatch.setattr(own, "_keep", refuse)
    said: list[str] = []
    assert len(data.load("celeba", progress=said.append).train_images) == 6
    assert "not kept" in said[0]


def test_celeba_images_that_are_not_the_aligned_ones(celeba):
    Image.new("RGB", (64, 64)).save(celeba / "img_align_celeba" / "000003.jpg")
    with pytest.raises(data.DataError, match=r"000003\.jpg is 64 x 64"):
        data.load("celeba")
    assert dict(data.verify("celeba"))["img_align_celeba/000003.jpg"] is False
    (celeba / "img_align_celeba" / "000003.jpg").write_bytes(b"<html>")
    with pytest.raises(data.DataError, match="not a whole JPEG"):
        data.load("celeba")


@pytest.fixture
def flickr(cache):
    """im1.jpg ... im11.jpg of different shapes, and their tags: a word a line, CRLF, or none."""
    folder = cache / "mir_flickr" / "mirflickr"
    (folder / "meta" / "tags").mkdir(parents=True)
    for i in range(1, 12):
        Image.new("RGB", (90 + i, 70), (20 * i, 10, 10)).save(folder / f"im{i}.jpg", quality=98)
        tags = "" if i == 2 else f"number{i}\r\nsky\r\n"
        (folder / "meta" / "tags" / f"tags{i}.txt").write_bytes(tags.encode())
    return folder


def test_mir_flickr(flickr):
    loaded = data.load("mir_flickr")
    assert isinstance(loaded, data.TaggedImageData)
    assert loaded.train_images.shape == (11, 3, 64, 64)
    assert loaded.train_tags[0] == ("number1", "sky")
    assert loaded.train_tags[1] == ()
    assert loaded.train_tags[10] == ("number11", "sky"), "ordered by number, not by letter"
    assert abs(float(loaded.train_images[10, 0, 32, 32]) - 220) < 6
    assert all(ok for _, ok in data.verify("mir_flickr"))


def test_mir_flickr_without_the_tags_of_an_image(flickr):
    (flickr / "meta" / "tags" / "tags3.txt").unlink()
    with pytest.raises(data.DataError, match=r"no tags3\.txt for im3\.jpg"):
        data.load("mir_flickr")


@pytest.fixture
def annotated(flickr):
    """The annotations beside the photographs, unpacked: lists of numbers, and README.txt."""
    folder = flickr.parent / "mirflickr25k_annotations_v080"
    folder.mkdir()
    for name, text in {
        "README.txt": "The annotations of the collection\n1 of 2\n",
        "sky.txt": "1\n2\n11\n",
        "plant_life.txt": "2\r\n10\r\n\r\n",
        "plant_life_r1.txt": "10\r\n",
        "animals.txt": "2\n",
        "lake.txt": "",
    }.items():
        (folder / name).write_bytes(text.encode())
    return folder


def test_mir_flickr_annotations_are_further_tags(flickr, annotated):
    tags = data.load("mir_flickr").train_tags
    assert tags[0] == ("number1", "sky"), "a word that the user has said is not said twice"
    assert tags[1] == ("animals", "plant_life", "sky")
    assert tags[2] == ("number3", "sky")
    assert tags[9] == ("number10", "sky", "plant_life"), "by the number of the image, once"
    checks = dict(data.verify("mir_flickr"))
    assert checks["mirflickr25k_annotations_v080/animals.txt"]
    assert not any("README" in file or "_r1" in file for file in checks)


def test_what_is_read_beside_mir_flickr_is_a_part_of_its_fingerprint(flickr):
    found = [data.fingerprint("mir_flickr")]
    for name in ("features.safetensors", "words.vectors"):
        (flickr.parent / name).write_bytes(b"1")
        found.append(data.fingerprint("mir_flickr"))
        (flickr.parent / name).write_bytes(b"22")
        found.append(data.fingerprint("mir_flickr"))
    assert len({*found}) == 5


def test_mir_flickr_annotations_are_a_part_of_its_fingerprint(flickr, annotated):
    first = data.fingerprint("mir_flickr")
    (annotated / "lake.txt").write_text("3\n")
    second = data.fingerprint("mir_flickr")
    annotated.rename(annotated.with_name("elsewhere"))
    third = data.fingerprint("mir_flickr")
    assert len({first, second, third}) == 3
    assert data.load("mir_flickr").train_tags[1] == (), "without the folder, the user tags"


def test_mir_flickr_annotations_that_are_none(flickr, annotated):
    lake = annotated / "lake.txt"
    for text, says in {
        "3\n\nim4.jpg\n": 'line 3: expected the number of an image, found "im4.jpg"',
        "-3\n": 'line 1: expected the number of an image, found "-3"',
        "3 4\n": 'line 1: expected the number of an image, found "3 4"',
        "3\n12\n": "line 2: there is no image 12",
        "0\n": "line 1: there is no image 0",
    }.items():
        lake.write_text(text)
        with pytest.raises(data.DataError) as caught:
            data.load("mir_flickr")
        assert str(caught.value) == f"{lake}, {says}"
        readable = dict(data.verify("mir_flickr"))[f"{annotated.name}/lake.txt"]
        assert readable is ("no image" in says)


def test_mir_flickr_annotations_without_a_list(flickr, annotated):
    for path in annotated.iterdir():
        if path.name not in {"README.txt", "plant_life_r1.txt"}:
            path.unlink()
    with pytest.raises(data.DataError, match=r"holds no lists of images such as animals\.txt"):
        data.load("mir_flickr")


def test_empty_folder(cache):
    (cache / "celeba" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(data.DataError, match=r"no \.jpg files"):
        data.load("celeba")
    line = next(line for line in data.status() if line.name == "celeba")
    assert line.state == "missing"
    assert "no .jpg files" in line.note
