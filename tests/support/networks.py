"""Networks for tests, and a problem around each: digits as pictures, as tokens, as plain rows."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import bilevel

TRAIN, TEST = 150, 50


def digits():
    """Pictures (n, 1, 8, 8) in [0, 1] and their classes, shuffled; float64."""
    pictures, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))[: TRAIN + TEST]
    inputs = torch.from_numpy(pictures).reshape(-1, 1, 8, 8) / 16
    return inputs[order], torch.from_numpy(classes)[order]


INPUTS, CLASSES = digits()
ONE_HOT = nn.functional.one_hot(CLASSES, 10).double()


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.fc = nn.Linear(45, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.second(torch.relu(self.first(x)))).flatten(1))


class Attention(nn.Module):
    """Eight rows of a picture as tokens, attention by the function, a table as a buffer."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Linear(8, 12), nn.Linear(12, 36)
        self.register_buffer("table", torch.sin(torch.arange(96.0).reshape(8, 12)))
        self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 10)

    def forward(self, x):
        z = self.embed(x.squeeze(1)) + self.table
        q, k, v = (part.unflatten(2, (2, 6)).mT for part in self.mix(z).chunk(3, 2))
        q, k, v = (part.movedim(3, 1) for part in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.fc(self.norm(z + mixed).mean(1))


class Transformer(nn.Module):
    """The same tokens through torch's own layer, which has a fused path for inference."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.embed = nn.Linear(8, 12)
        layer = nn.TransformerEncoderLayer(12, 2, 20, dropout=dropout, batch_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        return self.fc(self.mix(self.embed(x.squeeze(1))).mean(1))


class Patches(nn.Module):
    """A convolution makes tokens, one attention layer mixes them; few operations to compile."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(1, 4, 2, stride=2)
        self.mix = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        z = torch.tanh(self.cut(x)).flatten(2).mT
        return self.fc(self.mix(z, z, z, need_weights=False)[0].mean(1))


class Normed(nn.Module):
    """Layer and group norm, one output, whose axis the network drops itself."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.LayerNorm(12), nn.Tanh(), nn.GroupNorm(3, 12)
        )
        self.fc = nn.Linear(12, 1)

    def forward(self, x):
        return self.fc(self.body(x)).squeeze(-1)


class Recurrent(nn.Module):
    """A loop over the rows of a picture; no bias in the head."""

    def __init__(self):
        super().__init__()
        self.see, self.keep = nn.Linear(8, 7), nn.Linear(7, 7)
        self.fc = nn.Linear(7, 3, bias=False)

    def forward(self, x):
        state = x.new_zeros(len(x), 7)
        for token in x.squeeze(1).unbind(1):
            state = torch.tanh(self.see(token) + self.keep(state))
        return self.fc(state)


def frozen_statistics():
    """Batch norm that uses statistics it was given."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)
    )
    net[1].running_mean += torch.arange(4.0)
    net[1].running_var += torch.arange(4.0)
    return net.eval()


class Symmetric(nn.Module):
    def forward(self, matrix):
        return matrix.triu() + matrix.triu(1).mT


def reparametrised():
    """A symmetric matrix, and one layer used twice."""
    shared, first = nn.Linear(64, 64), nn.Linear(64, 64)
    nn.utils.parametrize.register_parametrization(first, "weight", Symmetric())
    layers = [nn.Flatten(), first, nn.Tanh(), shared, nn.Tanh(), shared, nn.Linear(64, 10)]
    return nn.Sequential(*layers)


NETWORKS = {
    "convolution": (Convolution, "fc"),
    "attention": (Attention, "fc"),
    "transformer": (Transformer, "fc"),
    "transformer, eval": (lambda: Transformer(0.1).eval(), "fc"),
    "patches, eval": (lambda: Patches().eval(), "fc"),
    "norms, one output": (Normed, "fc"),
    "recurrence, no bias": (Recurrent, "fc"),
    "frozen batch norm": (frozen_statistics, "4"),
    "parametrised, tied body": (reparametrised, "6"),
}


def targets_for(outputs):
    """Targets of the digits that fit a network's outputs."""
    if outputs is None:
        return CLASSES.double() / 9
    return ONE_HOT[:, :outputs]


class Digits(bilevel.LinearHeadProblem):
    """Squared error on one-hot classes around any network."""

    ridge = 1e-2

    def __init__(self, make_module, head="fc"):
        self.parts = bilevel.split(make_module, head)
        self.fit_bias, self.outputs = self.parts.fit_bias, self.parts.outputs

    def data(self, seed=None):
        targets = targets_for(self.outputs)
        return {
            "train": bilevel.Batch(INPUTS[:TRAIN], targets[:TRAIN]),
            "test": bilevel.Batch(INPUTS[TRAIN:], targets[TRAIN:]),
        }

    def init_body(self, generator):
        return self.parts.init_body(generator)

    def init_head(self, generator):
        return self.parts.init_head(generator)

    def features(self, body, inputs):
        return self.parts.features(body, inputs)


class Classes(bilevel.StackelbergProblem):
    """Cross-entropy of the network's logits, with weight decay of the head."""

    def __init__(self, make_module, head="fc"):
        self.parts = bilevel.split(make_module, head)

    def data(self, seed=None):
        return {"train": bilevel.Batch(INPUTS[:TRAIN], CLASSES[:TRAIN])}

    def init_body(self, generator):
        return self.parts.init_body(generator)

    def init_head(self, generator):
        return self.parts.init_head(generator)

    def head_objective(self, body, head, batch):
        logits = self.parts.predict(body, head, batch["train"].inputs)
        fit = nn.functional.cross_entropy(logits, batch["train"].targets)
        return fit + 0.05 * head.square().sum()
