"""Refits on real pictures, where Debian's package or a download has put them.

make test ARGS="-m slow tests/loops/test_fashion_mnist.py"
"""

import pytest
import torch
from torch import nn

from bilevel import errors, loops
from problems.images import load
from problems.images.sources import FASHION_MNIST


@pytest.mark.slow
def test_a_network_on_fashion_mnist():
    """Bitwise the loop without until the first refit; and refits help it."""
    try:
        found = load(FASHION_MNIST, download=False)
    except errors.MissingDataError as missing:
        pytest.skip(str(missing))
    (x, y), (fresh, classes) = (
        (
            torch.tensor(pixels[:6000]).reshape(-1, 1, 28, 28) / 255,
            torch.tensor(labels[:6000]).long(),
        )
        for pixels, labels in (found.train, found.test)
    )

    def net():
        torch.manual_seed(2)
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)),
        )

    def loop(every):
        model = net()
        optimizer = torch.optim.AdamW(loops.param_groups(model, "7", 1e-3, 1e-3))
        refit, losses = loops.HeadRefit(model, "7", 1e-3, every, rows=2000), []
        for k in range(90):
            some = slice(64 * k, 64 * (k + 1))
            loss = nn.functional.cross_entropy(model(x[some]), y[some])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            refit.step(y[some])
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(model(fresh), classes).item())
        return losses, refit.refits

    (plain, none), (refitted, three) = loop(1000), loop(30)
    assert (none, three) == (0, 3)
    assert plain[:30] == refitted[:30]  # bitwise, up to the loss after the first refit
    assert plain[30] != refitted[30]
    assert refitted[-1] < plain[-1]
