"""Deep Q-learners for tests: of a frozen replay memory, and by hand."""

import copy

import torch
from torch import nn

from bilevel import trees
from problems.deep_q.cartpole import cartpole
from problems.deep_q.environment import Moved
from problems.deep_q.learner import Learner
from problems.deep_q.network import Layers
from problems.deep_q.problem import DeepQ
from problems.deep_q.settings import Settings
from problems.deep_q.streams import Streams

INPUTS, WIDTH, ACTIONS, STORED = 3, 5, 2, 40
SETTINGS = Settings(batch=7, target_every=20, start=20, capacity=64, ridge=0.5)


def moved(before, actions, rewards, reached, terminated, **more):
    """A step of R runs; what is not said did not happen."""
    no = torch.zeros(len(actions), dtype=torch.bool)
    given = {"truncated": no, "life_lost": no, "stored": ~no, "now": reached, **more}
    return Moved(before, actions, rewards, reached, terminated, **given)


def transitions(seed):
    """The list of (s, a, r, s', cut) that a seed's replay memory is frozen with."""
    source = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)  # noqa: E731
    return [
        (draw(INPUTS), int(draw(1) > 0), float(draw(1).float()), draw(INPUTS), bool(draw(1) > 0.8))
        for _ in range(STORED)
    ]


class Still:
    """An environment that is never asked for a step."""

    actions = ACTIONS

    def __init__(self, seeds, dtype):
        self.at = torch.zeros(len(seeds), INPUTS, dtype=dtype)

    def reset(self):
        return self.at

    def snapshot(self):
        return {}


class FrozenLearner(Learner):
    """Learns from transitions that are given, and does not act."""

    def rows(self, k, body, head):
        if not self.steps:
            for some in zip(*map(transitions, self.seeds), strict=True):
                s, a, r, reached, cut = zip(*some, strict=True)
                kinds = (torch.tensor(a), torch.tensor(r), torch.stack(reached), torch.tensor(cut))
                step = moved(torch.stack(s), *kinds)
                self.replay.push(step, step.rewards)
        return super().rows(k, body, head)

    def _act(self, body, head):
        self.episodes.steps += 1


class FrozenQ(DeepQ):
    """A problem with frozen replay memories."""

    def __init__(self, settings=SETTINGS):
        super().__init__(Still, Layers(INPUTS, (WIDTH, WIDTH)), ACTIONS, settings)

    def experience(self, seeds, body, head):
        make = self.environment, self.network, self.replay, self.settings
        made = FrozenLearner(*make, seeds, body, head)
        made.seeds = seeds
        return made


class ByHand:
    """A deep Q-learner as one writes it: modules, autograd, torch's RMSprop and a list."""

    def __init__(self, problem, seed, body, head, rates):
        self.settings, self.seed, self.memory = problem.settings, seed, transitions(seed)
        linear = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ACTIONS)
        self.net = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2]).double()
        weights = [body["w0"], body["w1"], head[:-1]]
        biases = [body["b0"][0], body["b1"][0], head[-1]]
        for layer, weight, bias in zip(linear, weights, biases, strict=True):
            layer.weight.data, layer.bias.data = weight.T.clone(), bias.clone()
        self.target = copy.deepcopy(self.net)
        groups = [
            {"params": [p for layer in linear[:2] for p in layer.parameters()], "lr": rates[0]},
            {"params": list(linear[2].parameters()), "lr": rates[1]},
        ]
        self.optimizer = torch.optim.RMSprop(groups, alpha=0.95, eps=1e-5)
        self.linear = linear

    def update(self, k, *, exact):
        """The update of number k, from 0; its steps are start + every k."""
        settings = self.settings
        steps = settings.start + settings.every * k
        numbers = Streams([self.seed]).draws(k, settings.batch)[0]
        drawn = [self.memory[int(u * STORED)] for u in numbers]
        s, reached = (torch.stack([row[i] for row in drawn]) for i in (0, 3))
        a = torch.tensor([row[1] for row in drawn])
        with torch.no_grad():
            best = self.target(reached).amax(1)
        best[torch.tensor([row[4] for row in drawn])] = 0.0
        t = torch.tensor([row[2] for row in drawn], dtype=torch.float64) + settings.gamma * best
        if exact:
            self.solve(s, a, t)
        loss = 0.5 * (self.net(s)[range(len(a)), a] - t).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if steps % settings.target_every == 0:
            self.target = copy.deepcopy(self.net)

    @torch.no_grad()
    def solve(self, s, a, t):
        """The exact ridge head, action by action, around the head as it is."""
        z = self.net[:4](s)
        z = torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)
        eye, ridge = torch.eye(z.shape[1], dtype=z.dtype), self.settings.ridge
        for action in range(ACTIONS):
            chosen = z[a == action]
            last = self.linear[2]
            prior = torch.cat([last.weight[action], last.bias[action : action + 1]])
            matrix = chosen.T @ chosen / len(z) + ridge * eye
            right = chosen.T @ t[a == action] / len(z) + ridge * prior
            found = torch.linalg.solve(matrix, right)
            last.weight[action], last.bias[action] = found[:-1], found[-1]

    def parts(self):
        """Body and head in the form of the library."""
        w = [layer.weight.detach().T for layer in self.linear]
        b = [layer.bias.detach() for layer in self.linear]
        body = {"w0": w[0], "w1": w[1], "b0": b[0][None], "b1": b[1][None]}
        return body, torch.cat([w[2], b[2][None]])


def logged(**options):
    """CartPole whose environments log the actions of all runs, (T, R), in a list."""
    problem, log = cartpole(**options), []
    make = problem.environment

    def environment(seeds, dtype):
        made, actions = make(seeds, dtype), []
        log.append(actions)
        step = made.step
        made.step = lambda chosen: (actions.append(chosen.clone()), step(chosen))[1]
        return made

    problem.environment = environment
    return problem, log


def largest(one, other):
    """The largest difference of two trees."""
    pairs = zip(trees.leaves(one), trees.leaves(other), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)
