"""Problems whose body is what the exact heads take: features, row weights and penalties."""

import torch

import bilevel


class PlainHead(bilevel.LinearHeadProblem):
    """features = body["features"], and so on; `inputs` say nothing."""

    def __init__(self, body, targets, **settings):
        self.body, self.targets = body, targets
        for name, value in settings.items():
            setattr(self, name, value)
        self.outputs = settings.get("outputs", targets.shape[1] if targets.ndim == 2 else None)

    def data(self, seed=None):
        rows = self.targets.shape[0]
        inputs = torch.arange(rows, dtype=torch.float64).unsqueeze(1)
        return {"train": bilevel.Batch(inputs, self.targets)}

    def init_body(self, generator):
        return {name: leaf.detach().clone() for name, leaf in self.body.items()}

    def init_head(self, generator):
        size = self.body["features"].shape[1] + self.fit_bias
        return torch.zeros(self.head_shape(size), dtype=torch.float64)

    def features(self, body, inputs):
        return body["features"]

    def row_weights(self, body, batch):
        return body.get("weights")

    def penalty(self, body):
        return body["ridge"]


def normal(*shape, seed=0):
    """Seeded normal numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments(rows, columns, lead=(), outputs=None, more=0, seed=0):
    """Features, targets, ridge and row weights that ask for gradients."""
    features = normal(*lead, rows, columns, seed=seed)
    targets = normal(*lead, rows, *([] if outputs is None else [outputs]), seed=seed + 1)
    ridge = 0.3 + normal(*lead, columns + more, seed=seed + 2).square()
    weights = 0.2 + normal(*lead, rows, seed=seed + 3).square()
    return tuple(x.requires_grad_() for x in (features, targets, ridge, weights))


def by_solve(features, targets, ridge, weights, *, fit_bias=False, penalize_bias=False):
    """The ridge head by autograd through `torch.linalg.solve`."""
    if fit_bias:
        features = torch.cat([features, torch.ones_like(features[..., :1])], -1)
        ridge = ridge if penalize_bias else torch.nn.functional.pad(ridge, (0, 1))
    columns = targets if targets.ndim == features.ndim else targets.unsqueeze(-1)
    weighted, n = features * weights.unsqueeze(-1), features.shape[-2]
    matrix = weighted.mT @ features / n + torch.diag_embed(ridge)
    found = torch.linalg.solve(matrix, weighted.mT @ columns / n)
    return found if targets.ndim == features.ndim else found.squeeze(-1)
