"""Archives of transitions that are damaged, or none: refused by name, whatever their bytes are."""

import io
import random
import warnings

import mutated_files
import numpy as np
import pytest

from bilevel.errors import BilevelError
from problems.mspbe.log_files import read_arrays


def archive(save):
    random = np.random.default_rng(0)
    out = io.BytesIO()
    save(
        out,
        states=random.random((20, 3)),
        next_states=random.random((20, 3)),
        rewards=random.random(20),
        terminated=np.zeros(20, dtype=bool),
    )
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_mutated_archive_is_refused_or_read(save, tmp_path):
    path = tmp_path / "log.npz"
    said = []
    for _, raw in mutated_files.of_bytes(archive(save), random.Random(0), 30):
        mutated_files.placed(path, raw)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are not understood
                read_arrays(path)
        except BilevelError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("log.npz" in text for text in said)


def test_an_array_alone_is_no_archive(tmp_path):
    out = io.BytesIO()
    np.save(out, np.ones(3))
    (tmp_path / "log.npz").write_bytes(out.getvalue())
    with pytest.raises(BilevelError, match=r"log\.npz cannot be read as an \.npz file"):
        read_arrays(tmp_path / "log.npz")
