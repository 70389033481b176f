"""What casts doubt on a strategy's numbers: heads that are not what they are compared as."""

from collections.abc import Mapping, Sequence

from bilevel.core.status import Status
from bilevel.report.words import Content, joined

WORDS = {
    "NOT_CONVERGED": "a head solver stopped early",
    "JITTERED": "a singular head was solved with jitter",
    "OUTSIDE_SET": "a head was projected, not solved",
    "INEXACT_HEAD": "a head was too rough for its derivative",
    "ADJOINT_NOT_CONVERGED": "an adjoint did not converge",
    "NOT_CONTRACTING": "a Neumann series did not contract",
}


def counted(statuses: Sequence[str]) -> dict[str, int]:
    """In how many runs something happened that is no failure, but must be said.

    Args:
        statuses: Names of `Status` members, one a run.

    Examples:
        >>> counted(["COMPLETED", "JITTERED", "OUTSIDE_SET", "JITTERED", "DIVERGED"])
        {'JITTERED': 2, 'OUTSIDE_SET': 1}
    """
    doubtful = [status.name for status in Status if Status.INTERRUPTED < status < Status.DIVERGED]
    return {name: statuses.count(name) for name in doubtful if name in statuses}


def found(
    status: Mapping[str, Sequence[str]], interrupted: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """The same of all strategies: strategy -> name of a `Status` -> in how many runs.

    Args:
        status: Strategy -> names of `Status` members, one a run.
        interrupted: Strategy -> the same of the heads of runs that are INTERRUPTED.
    """
    return {
        name: counted(
            [known if code == "INTERRUPTED" else code
             for code, known in zip(codes, interrupted.get(name, codes), strict=True)]
        )
        for name, codes in status.items()
    }  # fmt: skip


def doubt(name: str, counts: Mapping[str, int], runs: int) -> str:
    """The same in words; "" where there is nothing to say.

    Args:
        name: Of the strategy.
        counts: Of `counted`.
        runs: Of the strategy.

    Examples:
        >>> doubt("best response", {"OUTSIDE_SET": 3}, 10)
        'in 3 of 10 runs of best response a head was projected, not solved'
    """
    parts = []
    for status, count in counts.items():
        where = f"{count} of {runs} runs" if count < runs else "every run"
        where = "the run" if runs == 1 else where
        parts.append(f"in {where} of {name} {WORDS.get(status, status)}")
    return joined(parts)


def all_of(content: Content, names: Mapping[str, str]) -> str:
    """What a sentence on some strategies must not leave out, or "".

    Args:
        content: With "doubts" of `found`.
        names: What the sentence calls them -> their names in the comparison.
    """
    found = (
        doubt(label, content["doubts"].get(name, {}), content["runs"])
        for label, name in names.items()
    )
    return joined([text for text in found if text])


def aside(content: Content, names: Mapping[str, str]) -> str:
    """The same in brackets, after a space."""
    text = all_of(content, names)
    return f" ({text})" if text else ""
