"""What ends, what is cut, and what is never learned from: scripted environments."""

import pytest
import torch

from problems.deep_q.environment import Moved
from problems.deep_q.episodes import Episodes
from problems.deep_q.learner import GIVEN, Learner
from problems.deep_q.network import Layers, values
from problems.deep_q.replay import whole
from problems.deep_q.settings import Settings

GAMMA, ACTIONS = 0.5, 3
SETTINGS = Settings(gamma=GAMMA, start=4, target_every=4, batch=64, capacity=32, clip_rewards=True)


class Script:
    """One observation, the number of the step; what happens at each is told by a line.

    Letters: t terminated, u truncated, l a life lost, r a step that only resets, . an ordinary one.
    """

    actions = ACTIONS

    def __init__(self, line, rewards=None):
        self.line, self.at = line, 0
        self.rewards = rewards or [1.0] * len(line)

    def __call__(self, seeds, dtype):
        self.runs, self.dtype = len(seeds), dtype
        return self

    def reset(self):
        return self.seen()

    def seen(self, more=0.0):
        return torch.full((self.runs, 1), self.at + more, dtype=self.dtype)

    def step(self, actions):
        letter, before, reward = self.line[self.at], self.seen(), self.rewards[self.at]
        reached = self.seen(0.5)  # where it got to, told from where the next step begins
        self.at += 1
        is_ = lambda *some: torch.full((self.runs,), letter in some)  # noqa: E731
        marks = is_("t"), is_("u"), is_("l"), ~is_("r")
        return Moved(
            before, actions, torch.full((self.runs,), reward), reached, *marks, self.seen()
        )


def learner(line, rewards=None, runs=2):
    """A learner that has made the steps of a line, with the rows of its update."""
    network = Layers(1, (4,))
    source = torch.Generator().manual_seed(0)
    body = {k: x.expand(runs, *x.shape).clone() for k, x in network.init_body(source).items()}
    head = network.init_head(ACTIONS, source).expand(runs, 5, ACTIONS).clone()
    settings = Settings(**{**vars(SETTINGS), "start": len(line), "every": 1, "target_every": 99})
    made = Learner(Script(line, rewards), network, whole, settings, range(runs), body, head)
    rows = made.rows(0, body, head)
    best = values(network.features_of_runs(body, rows["train"].inputs + 0.5), head).amax(2)
    return made, rows, best


def by_step(line, rewards=None):
    """Target minus reward, over the bootstrap value: by step, 1 where it counts, 0 where cut."""
    _, rows, best = learner(line, rewards)
    inputs, targets = rows["train"].inputs[..., 0], rows["train"].targets[..., 0]
    learned = torch.tensor(rewards or [1.0] * len(line)).sign().double()
    share = (targets - learned[inputs.long()]) / (GAMMA * best)
    return {
        int(s): round(float(x), 9) for s, x in zip(inputs.flatten(), share.flatten(), strict=True)
    }


def test_terminated_cuts_the_bootstrap_and_truncated_does_not():
    assert by_step("..t.u..t") == {0: 1, 1: 1, 2: 0, 3: 1, 4: 1, 5: 1, 6: 1, 7: 0}


def test_a_reset_never_enters_the_replay():
    made, rows, _ = learner("..tr.ur.")
    assert made.replay.filled.tolist() == [6, 6]
    assert {int(s) for s in rows["train"].inputs.flatten()} == {0, 1, 2, 4, 5, 7}
    assert by_step("..tr.ur.") == {0: 1, 1: 1, 2: 0, 4: 1, 5: 1, 7: 1}


def test_a_lost_life_cuts_the_bootstrap_and_nothing_else():
    assert by_step("..l..t..") == {0: 1, 1: 1, 2: 0, 3: 1, 4: 1, 5: 0, 6: 1, 7: 1}
    rewards = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    with_life, without = (learner(line, rewards)[0] for line in ("..l..t..", ".....t.."))
    for made in (with_life, without):
        assert made.episodes.ended(0).tolist() == [[5.0, 63.0, 6.0]]  # step, return, length


def test_signs_are_learned_from_and_true_rewards_are_told():
    rewards = [0.0, -3.0, 7.0, 0.0]
    made, rows, best = learner("..t.", rewards)
    inputs, targets = rows["train"].inputs[..., 0], rows["train"].targets[..., 0]
    at_two = inputs == 2
    assert torch.equal(targets[at_two], torch.ones_like(targets[at_two]))
    at_one = inputs == 1
    assert torch.allclose(targets[at_one], GAMMA * best[at_one] - 1)
    assert made.episodes.ended(1)[:, 1].tolist() == [4.0]


def test_rows_hold_the_chosen_action_and_the_head_as_prior():
    made, rows, _ = learner("........")
    weights = rows[GIVEN]["weights"]
    assert weights.shape == (2, 64, ACTIONS)
    assert torch.equal(weights.sum(2), torch.ones(2, 64, dtype=weights.dtype))
    assert torch.equal(rows[GIVEN]["prior"], made._at[1])
    assert float(made.evaluated(*made._at)[GIVEN]["weights"].sum()) == 2 * 256


def test_before_the_first_step_rows_weigh_nothing():
    network = Layers(1, (4,))
    source = torch.Generator().manual_seed(0)
    body = {k: x.unsqueeze(0) for k, x in network.init_body(source).items()}
    head = network.init_head(ACTIONS, source).unsqueeze(0)
    made = Learner(Script("...."), network, whole, SETTINGS, [3], body, head)
    rows = made.evaluated(body, head)
    assert not rows[GIVEN]["weights"].any()
    assert torch.equal(rows[GIVEN]["prior"], head)
    assert made.steps == 0


def followed(line, rewards):
    """The episodes of a line."""
    script, episodes = Script(line, rewards)([0], torch.float64), Episodes(1)
    for _ in line:
        episodes.add(script.step(torch.zeros(1, dtype=torch.int64)))
    return episodes


def test_area_is_the_mean_over_steps_of_the_latest_return():
    episodes = followed("..tr..u...", [1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    # 0 before the first end, at step 2; 6 from there, 18 from step 6 on
    assert float(episodes.area) == pytest.approx((0 * 2 + 6 * 4 + 18 * 4) / 10)
    assert episodes.ended(0).tolist() == [[2.0, 6.0, 3.0], [6.0, 18.0, 3.0]]


def test_last_is_the_mean_of_those_that_end_in_the_last_fifth():
    assert float(followed("tttttttttt", [float(i) for i in range(10)]).last) == 8.5
    assert float(followed("t.........", [1.0] * 10).last) == 9.0  # none: that which goes on
    many = followed("t" * 300, [float(i) for i in range(300)])  # more than the places at first
    assert float(many.last) == pytest.approx(sum(range(240, 300)) / 60)
    again = Episodes(1)
    again.go_on_from(many.snapshot())
    assert torch.equal(again.ended(0), many.ended(0))
    assert float(again.area) == float(many.area)
