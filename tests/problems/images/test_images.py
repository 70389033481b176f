"""Image files: found, checked, read; damaged, misplaced or missing ones are named."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import sys
import tarfile
import threading

import numpy as np
import pytest

from bilevel.errors import DataError, MissingDataError, MissingPackageError
from problems.images import download, load, loading, places
from problems.images.formats import RECORD, parse_idx, parse_records
from problems.images.sources import CIFAR10, FASHION_MNIST, MNIST, SOURCES, Source

RANDOM = np.random.default_rng(5)
TRAIN, TEST = 7, 3


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def made_up(rows):
    return RANDOM.integers(0, 256, (rows, 4, 5), dtype=np.uint8), RANDOM.integers(
        0, 10, rows, dtype=np.uint8
    )


ARRAYS = {"train": made_up(TRAIN), "t10k": made_up(TEST)}
FILES = {
    f"{group}-{name}-ubyte": idx(array)
    for group, pair in ARRAYS.items()
    for name, array in zip(("images-idx3", "labels-idx1"), pair, strict=True)
}
CIFAR = {
    name: RANDOM.integers(0, 9, 2 * RECORD, dtype=np.uint8).tobytes() for name in CIFAR10.digests
}


def with_files(source, files, kind="sha256", **changes):
    """The data set as if these were its files."""
    digests = {name: hashlib.new(kind, content).hexdigest() for name, content in files.items()}
    return dataclasses.replace(source, digests=digests, **changes)


SMALL = with_files(MNIST, FILES, pixels=20)
SMALL_CIFAR = with_files(CIFAR10, CIFAR, "md5")


def write(folder, files, zipped=()):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name in zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def tar(folder, files, name=CIFAR10.archive):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w:gz") as archive:
        for member, content in {"readme.html": b"hello", **files}.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / name


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """As on a machine without data sets; the web answers nobody."""

    def fetch(source):
        raise MissingDataError("No network in tests.")

    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    monkeypatch.setattr(places, "SHARED", tmp_path / "usr")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "fetch", fetch)


def check(found):
    for group, (pixels, labels) in {"train": found.train, "t10k": found.test}.items():
        np.testing.assert_array_equal(pixels, ARRAYS[group][0].reshape(-1, 20))
        np.testing.assert_array_equal(labels, ARRAYS[group][1])


@pytest.mark.parametrize("zipped", [(), tuple(FILES), ("train-images-idx3-ubyte",)])
def test_idx_files_plain_and_compressed(tmp_path, zipped):
    check(load(SMALL, write(tmp_path / "mnist", FILES, zipped)))


def test_places_in_their_order(tmp_path, monkeypatch):
    cache = places.cache()
    assert cache.is_relative_to(tmp_path)
    order = [tmp_path / "usr/mnist", cache / "mnist", tmp_path / "variable/MNIST/raw"]
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "variable"))
    for folder in order:
        write(folder, FILES)
        assert load(SMALL).where == folder
    for folder in (tmp_path / "given/mnist", tmp_path / "alone"):
        write(folder, FILES)
    assert load(SMALL, tmp_path / "given").where == tmp_path / "given/mnist"
    assert load(SMALL, tmp_path / "alone").where == tmp_path / "alone"
    assert load(SMALL, tmp_path / "empty").where == order[-1]  # the next place, hashes are checked


def test_cifar10_from_its_files_and_from_its_archive(tmp_path):
    by_hand = {name: np.frombuffer(x, np.uint8).reshape(2, RECORD) for name, x in CIFAR.items()}
    write(tmp_path / "one/cifar-10-batches-bin", CIFAR)
    tar(tmp_path / "two", CIFAR)
    for folder in ("one", "two"):
        found = load(SMALL_CIFAR, tmp_path / folder)
        assert found.train[0].shape == (10, 3072)
        np.testing.assert_array_equal(found.test[0], by_hand["test_batch.bin"][:, 1:])
        np.testing.assert_array_equal(found.test[1], by_hand["test_batch.bin"][:, 0])
        np.testing.assert_array_equal(found.train[0][2:4], by_hand["data_batch_2.bin"][:, 1:])
        np.testing.assert_array_equal(found.train[1][4:6], by_hand["data_batch_3.bin"][:, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x80\x04\x95\x00 a pickle", "no IDX file"),
        (bytes([0, 0, 9, 1, 0, 0, 0, 1, 5]), "no IDX file of bytes: it begins with 00 00 09 01"),
        (bytes([0, 0, 8, 2, 0, 0, 0, 1]), "its header alone takes 12 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "truncated: it holds 10 bytes of 11"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "damaged: it holds 10 bytes, 9 are stated"),
    ],
)
def test_what_is_no_idx_file(content, message):
    with pytest.raises(DataError, match=message) as caught:
        parse_idx(content, "some/file")
    assert "some/file" in str(caught.value)


@pytest.mark.parametrize("length", [0, RECORD - 1, 2 * RECORD - 1])
def test_what_is_no_file_of_records(length):
    with pytest.raises(DataError, match="truncated"):
        parse_records(bytes(length), "some/file")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_tampered_and_truncated_files_are_named(tmp_path, name, zipped):
    content = FILES[name]
    tampered = content[:-2] + bytes([(content[-2] + 1) % 10]) + content[-1:]
    packed = tuple(FILES) if zipped else ()
    folder = write(tmp_path / "mnist", {**FILES, name: tampered}, packed)
    file = str(folder / name) + ".gz" * zipped
    with pytest.raises(DataError, match="was changed") as caught:
        load(SMALL, tmp_path)
    assert file in str(caught.value)
    assert SMALL.digests[name] in str(caught.value)
    write(folder, {**FILES, name: content[:-1]}, packed)  # whole as gzip, shorter inside
    with pytest.raises(DataError, match=r"truncated: it holds [\d,]+ bytes of") as caught:
        load(SMALL, tmp_path)
    assert file in str(caught.value)
    if zipped:
        path = folder / f"{name}.gz"
        whole = gzip.compress(content)
        for damaged, message in [
            (whole[:-9], "truncated: it ends within its compressed data"),
            (whole[:12] + b"\xff\xff" + whole[14:], "no undamaged gzip file"),
            (content, "no undamaged gzip file"),
        ]:
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=message) as caught:
                load(SMALL, tmp_path)
            assert file in str(caught.value)


def test_a_damaged_archive_is_named(tmp_path):
    path = tar(tmp_path, {name: x for name, x in CIFAR.items() if name != "data_batch_4.bin"})
    with pytest.raises(DataError, match=r"lacks data_batch_4\.bin"):
        load(SMALL_CIFAR, tmp_path)
    tar(tmp_path, {**CIFAR, "data_batch_4.bin": CIFAR["data_batch_1.bin"]})
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz was changed.*data_batch_4.*MD5"):
        load(SMALL_CIFAR, tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated or damaged and cannot be unpacked") as caught:
        load(SMALL_CIFAR, tmp_path)
    assert str(path) in str(caught.value)


def test_a_file_of_the_other_data_set_is_recognised(tmp_path, monkeypatch):
    other = with_files(
        FASHION_MNIST,
        {**FILES, "train-labels-idx1-ubyte": idx(np.arange(TRAIN, dtype=np.uint8))},
        pixels=20,
    )
    monkeypatch.setitem(SOURCES, "mnist", SMALL)
    write(tmp_path / "both", FILES)
    with pytest.raises(DataError, match="is train-labels-idx1-ubyte of MNIST, not train-labels"):
        load(other, tmp_path / "both")


def test_images_without_their_labels(tmp_path):
    files = {**FILES, "t10k-labels-idx1-ubyte": idx(np.arange(TEST + 1, dtype=np.uint8))}
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"test images of MNIST .* \(3, 20\) for 4 labels"):
        load(with_files(MNIST, files, pixels=20), tmp_path)


def test_missing_files_list_every_place_and_three_remedies(tmp_path, monkeypatch):
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "variable"))
    write(tmp_path / "given", {name: FILES[name] for name in list(FILES)[:3]})
    with pytest.raises(MissingDataError) as caught:
        load(SMALL, tmp_path / "given")
    message = str(caught.value)
    looked = [
        f"{tmp_path / 'given'} lacks t10k-labels-idx1-ubyte",
        f"{tmp_path / 'given/mnist'} does not exist",
        f"{tmp_path / 'variable/mnist'} does not exist",
        f"{places.cache() / 'mnist'} does not exist",
        f"{tmp_path / 'usr/mnist'} does not exist",
        "the web: No network in tests",
    ]
    remedies = ["(1) name the folder", "--data-dir", "BILEVEL_DATA", "(2) Copy them", "(3) With a"]
    for part in [*looked, *remedies, *FILES]:
        assert part in message
    with pytest.raises(MissingDataError) as caught:
        load(FASHION_MNIST, download=False)
    for part in ("apt-get install dataset-fashion-mnist", "not given", "`download` is False"):
        assert part in str(caught.value)
    with pytest.raises(MissingDataError, match=r"or cifar-10-binary.tar.gz"):
        load(CIFAR10)


class Server:
    """A web server on this machine."""

    def __init__(self, folder):
        self.asked = asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=folder)

            def log_message(self, *_):
                asked.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "fetch", download.fetch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "web").mkdir()
    made = Server(tmp_path / "web")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_download_is_kept_in_the_cache(tmp_path, web):
    write(tmp_path / "web", FILES, tuple(FILES))
    source = dataclasses.replace(SMALL, addresses=(web.address + "gone/", web.address))
    found = load(source)  # the first address does not have it
    check(found)
    assert found.where == places.cache() / "mnist"
    assert sorted(os.listdir(found.where)) == sorted(f"{name}.gz" for name in FILES)
    assert os.listdir(places.cache()) == ["mnist"]  # nothing else stays
    before = len(web.asked)
    check(load(source))
    assert len(web.asked) == before


def test_the_archive_is_downloaded_and_its_files_kept(tmp_path, web):
    tar(tmp_path / "web", {**CIFAR, "../../escape.bin": b"no"})
    found = load(dataclasses.replace(SMALL_CIFAR, addresses=(web.address,)))
    assert sorted(os.listdir(found.where)) == sorted(CIFAR)
    assert found.test[0].shape == (2, 3072)
    assert not list(tmp_path.rglob("escape.bin"))


def test_a_wrong_download_is_not_kept(tmp_path, web):
    name = "t10k-images-idx3-ubyte"
    write(tmp_path / "web", {**FILES, name: FILES[name][:-1] + b"!"}, tuple(FILES))
    source = dataclasses.replace(SMALL, addresses=(web.address,))
    with pytest.raises(MissingDataError, match="was changed, or is not t10k-images") as caught:
        load(source)
    assert f"{web.address}{name}.gz" in str(caught.value)
    assert not list(places.cache().rglob(f"*{name}*"))
    write(tmp_path / "web", FILES, tuple(FILES))
    check(load(source))  # the next one is made anew


def test_downloads_say_which_extra_they_need(web, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingPackageError, match=r"pooch.*pip install \"bilevel\[data\]\""):
        download.fetch(SMALL)
    with pytest.raises(MissingDataError, match=r"the web: A download needs the package pooch"):
        load(SMALL)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(MissingDataError, match="not known without the package platformdirs"):
        load(SMALL)


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name)
def test_the_hashes_are_hashes(source: Source):
    for digest in source.digests.values():
        assert len(bytes.fromhex(digest)) in (16, 32)
    assert len(set(source.digests.values())) == len(source.digests)
