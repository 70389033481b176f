"""New tasks after training on many: exact heads, heads by a few steps, heads that are kept.

Sine waves with 10 and 5 shots, and episodes of digits with 1 and 5: the strategies of both problems
(`FewShot.strategies`) by Adam on 16 tasks a step. Heads of new tasks are found as in training, but
for heads that are kept by tasks: there they are exact. ANIL has no penalty. For each: the mean over
seeds of the mean over new tasks with a 95 % interval, the mean over seeds of the median over tasks,
and CPU seconds of all seeds together, one thread.

Run: `python benchmarks/few_shot.py [--problem sinusoid] [--shots 10] [--seeds 5] [--steps 3000]`.
"""

import argparse
import time

import torch

import bilevel
from bilevel.comparison.statistics.paired import mean_interval
from problems.episodes import episodes
from problems.sinusoid import sinusoid

BODY_LR, TASKS = 1e-3, 16
SHOTS = {"sinusoid": (10, 5), "episodes": (1, 5)}
MAKE = {"sinusoid": sinusoid, "episodes": episodes}
REFERENCE = {
    ("sinusoid", 10, "exact head"): ".0200 +- .0043",
    ("sinusoid", 10, "ANIL, 5 steps"): ".295 +- .063",
    ("sinusoid", 10, "ANIL, 1 step"): "1.05 +- .045",
    ("sinusoid", 10, "heads kept"): ".21 +- .02",
    ("sinusoid", 5, "exact head"): ".117 +- .061 (median .028)",
    ("sinusoid", 5, "ANIL, 5 steps"): ".754 +- .046",
}


def errors(solution, run, adapter):
    """Of each new task of a run: its mean squared error, or the share of wrong labels."""
    problem = solution.problem
    groups = problem.data(solution.seeds[run])["test"]
    support, judged = ([x.float() for x in groups[name]] for name in ("train", "test"))
    heads = solution.adapt(*support, adapter)[run]
    body = {name: leaf[run] for name, leaf in solution.body.items()}
    found = torch.vmap(lambda head, x: problem.predict(body, head, x))(heads, judged[0])
    if found.ndim == 2:
        return (found - judged[1]).square().mean(1)
    return (found.argmax(2) != judged[1].argmax(2)).float().mean(1)


def trained(name, shots, strategy, options):
    """The errors on new tasks, (seeds, tasks), and CPU seconds of the training."""
    ridge = {"ridge": 0.0} if strategy.startswith("ANIL") else {}
    problem = MAKE[name](shots=shots, **ridge)
    method = problem.strategies(BODY_LR, BODY_LR)[strategy]
    begin = time.process_time()
    solution = bilevel.solve(
        problem,
        method,
        steps=options.steps,
        batch_size=TASKS,
        seeds=options.seeds,
        every=options.steps,
    )
    seconds = time.process_time() - begin
    adapter = method.solver if strategy.startswith("ANIL") else None
    return torch.stack([errors(solution, i, adapter) for i in range(options.seeds)]), seconds


def main() -> None:
    """Print a line for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--shots", type=int, nargs="+")
    parser.add_argument("--strategies", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.problem:
        print(f"{name}: {options.seeds} seeds, {options.steps} steps of {TASKS} tasks")
        for shots in options.shots or SHOTS[name]:
            names = MAKE[name]().strategies(BODY_LR, BODY_LR)
            for strategy in options.strategies or names:
                found, seconds = trained(name, shots, strategy, options)
                interval = mean_interval(found.mean(1).double().numpy())
                half, median = interval.high - interval.value, found.median(1).values.mean()
                reference = REFERENCE.get((name, shots, strategy), "")
                print(
                    f"{shots:>2} shots  {strategy:14} {interval.value:.4f} +- {half:.4f}  median "
                    f"{median:.4f} {seconds:5.0f} s  {reference}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
