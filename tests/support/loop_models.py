"""Small networks of kinds that users train, and rows for them."""

import torch
from torch import nn


class Picture(nn.Module):
    """Convolutions for pictures of 8 by 8."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.fc = nn.Linear(36, 10)

    def forward(self, pictures):
        z = torch.relu(self.norm(self.convolution(pictures)))
        return self.fc(z.flatten(1))


class Tied(nn.Module):
    """A language model whose head has the weight of its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embed(tokens))))


def pictures(count, seed=0):
    """Random pictures, and labels that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    return x, (x[:, 0, :2, :5].flatten(1).argmax(1))


def sequences(count, seed=0):
    """Random tokens, and the one before as the label."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (count, 7), generator=generator)
    return tokens, tokens.roll(1, 1)


class Noisy(nn.Module):
    """Convolutions with all that has a state or draws: batch norm and dropout."""

    def __init__(self, outputs=10, bias=True):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.3)
        self.fc = nn.Linear(36, outputs, bias=bias)

    def forward(self, pictures):
        z = torch.relu(self.norm(self.convolution(pictures)))
        return self.fc(self.dropout(z.flatten(1)))


class Transformer(nn.Module):
    """Attention over tokens; the head is applied to every position."""

    def __init__(self, vocabulary=11, width=8, length=7, dropout=0.1):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.randn(length, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 16, dropout, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens) + self.place[: tokens.shape[1]]))
