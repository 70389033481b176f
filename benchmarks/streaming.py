"""Ridge regression on a file that is not read into memory: how fast, and in how much memory?

A file of float32 rows is made in a temporary folder and mapped. `GramAccumulator` multiplies in
float32 and refines; `best_response` solves the same regression as a bilevel problem whose body is
the ridge, certificate included; NumPy reads the file, makes float64 of it and multiplies.

Rate: 2 n M^2 divided by the seconds that multiplying and adding take (not those of reading the map
and looking for NaN), as a share of the rate of a float32 multiplication of 1,024 x 1,024 matrices,
which takes turns with slices of the file; CPU seconds, medians. Of the multiplications of the full
matrix, the sums make 62 %: those of blocks that meet the lower triangle.

Memory: the largest anonymous memory of a fresh process (what is not a page of the file) while it
computes, minus that before, after the imports; sampled every 2 ms.

Run: `make bench BENCH=streaming`, or `python benchmarks/streaming.py [--rows 1000000]`.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

import bilevel
from bilevel.point import accumulator

COLUMNS, RIDGE, SLICES, BLOCK = 256, 1e-3, 16, 10_000


class RidgeOf(bilevel.LinearHeadProblem):
    """Ridge regression; the body is the ridge."""

    body_free_features = True
    chunk_rows = 8192

    def __init__(self, folder: Path) -> None:
        self.arrays = mapped(folder)

    def data(self, seed=None):
        """Memory maps."""
        return {"train": bilevel.Batch(*self.arrays)}

    def init_body(self, generator):
        """The ridge."""
        return torch.tensor(RIDGE, dtype=torch.float64)

    def init_head(self, generator):
        """Zeros."""
        return torch.zeros(self.arrays[0].shape[1], dtype=torch.float64)

    def features(self, inputs):
        """The inputs."""
        return inputs

    def penalty(self, body):
        """The body."""
        return body


def make_files(folder: Path, rows: int) -> None:
    """Correlated columns and noisy targets, written a block at a time."""
    random = np.random.default_rng(0)
    shape = {"x": (rows, COLUMNS), "y": (rows,)}
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, size)
        for name, size in shape.items()
    }
    truth = random.standard_normal(COLUMNS, dtype=np.float32)
    for start in range(0, rows, BLOCK):
        size = min(BLOCK, rows - start)
        x = random.standard_normal((size, COLUMNS), dtype=np.float32)
        x += x[:, :1]  # every column correlates with the first
        files["x"][start : start + size] = x
        noise = random.standard_normal(size, dtype=np.float32)
        files["y"][start : start + size] = x @ truth + noise


def mapped(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two files, not read."""
    x, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")
    return x, y


def by_accumulator(folder: Path) -> np.ndarray:
    """One pass."""
    return bilevel.GramAccumulator().add(*mapped(folder)).solve(RIDGE).head.numpy()


def by_best_response(folder: Path) -> np.ndarray:
    """As a bilevel problem."""
    problem = RidgeOf(folder)
    return bilevel.best_response(problem, problem.init_body(None)).head.numpy()


def by_numpy(folder: Path) -> np.ndarray:
    """In memory."""
    x, y = (np.load(folder / f"{name}.npy").astype(np.float64) for name in "xy")
    matrix = x.T @ x / len(x) + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(matrix, x.T @ y / len(x))


WAYS = {
    "GramAccumulator": by_accumulator,
    "best_response": by_best_response,
    "NumPy in memory": by_numpy,
}


def anonymous() -> float:
    """Memory of this process that is no page of a file, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("This kernel does not say RssAnon.")


def measured(way: str, folder: Path) -> tuple[float, float]:
    """Seconds, and MB added at the peak; the answer is written beside the files."""
    torch.linalg.eigvalsh(torch.eye(COLUMNS, dtype=torch.float64))  # libraries load at first use
    before, peak, done = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    found = WAYS[way](folder)
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    np.save(folder / f"{way}.npy", found)
    return seconds, peak[0] - before


def float32_rate(size: int = 1024, times: int = 4) -> float:
    """Operations per second of a matrix multiplication."""
    a, b = torch.randn(2, size, size)
    began = time.process_time()
    for _ in range(times):
        a @ b
    return times * 2 * size**3 / (time.process_time() - began)


def compute_rates(folder: Path) -> list[tuple[float, float]]:
    """Rates of the sums over slices of the file, and of multiplications in turn with them."""
    seconds, add_rows = [0.0], accumulator.add_rows

    def timed(*arguments, **options):
        began = time.process_time()
        found = add_rows(*arguments, **options)
        seconds[0] += time.process_time() - began
        return found

    accumulator.add_rows = timed
    found = []
    try:
        for x, y in zip(*(np.array_split(a, SLICES) for a in mapped(folder)), strict=True):
            reference, seconds[0] = float32_rate(), 0.0
            bilevel.GramAccumulator().add(x, y)
            rate = 2 * len(x) * COLUMNS**2 / seconds[0]
            found.append((rate, 0.5 * (reference + float32_rate())))
    finally:
        accumulator.add_rows = add_rows
    return found


def main() -> None:
    """Print the ratio and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the file; a temporary one by default")
    parser.add_argument("--cell", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cell:
        print(*measured(options.cell[0], Path(options.cell[1])))
        return
    size = 4 * options.rows * (COLUMNS + 1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if shutil.disk_usage(name).free < 2 * size:
            sys.exit(f"{size / 1e9:.1f} GB do not fit in {name}: --rows or --folder.")
        folder = Path(name)
        make_files(folder, options.rows)
        print(f"{options.rows:,} rows of {COLUMNS} float32 numbers, {size / 1e6:,.0f} MB, 1 thread")
        rates = compute_rates(folder)
        ratio = statistics.median(rate / reference for rate, reference in rates)
        rate, reference = (statistics.median(column) / 1e9 for column in zip(*rates, strict=True))
        print(
            f"compute part: {rate:.0f} GF/s, float32 multiplication {reference:.0f} GF/s: "
            f"{ratio:.0%} of it (median of {SLICES} pairs)"
        )
        print(f"{'':18}{'seconds':>10}{'MB added':>10}{'from NumPy':>12}")
        answers = {}
        for way in ["NumPy in memory", "GramAccumulator", "best_response"]:
            output = subprocess.run(
                [sys.executable, __file__, "--cell", way, name],
                check=True, capture_output=True, text=True,
            ).stdout.split()  # fmt: skip
            answers[way] = np.load(folder / f"{way}.npy")
            off = np.abs(answers[way] - answers["NumPy in memory"]).max()
            print(f"{way:18}{float(output[0]):10.1f}{float(output[1]):10.0f}{off:12.1e}")


if __name__ == "__main__":
    main()
