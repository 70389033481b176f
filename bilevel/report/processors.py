"""What kinds of processors computed a comparison that an engine had computed in shards."""

from collections import Counter

from bilevel.errors import counted
from bilevel.report.words import Content, joined


def kinds(content: Content) -> str:
    """Which kinds computed how many shards, and whether they round alike; "" where one did all.

    Processors with equal `bits` made the same bits of a fixed set of operations.
    """
    shards = content["environment"].get("shards", [])
    known = Counter((shard["kind"], shard["bits"]) for shard in shards)
    if len(known) < 2:
        return ""
    named: Counter[str] = Counter()
    for (kind, _), count in known.items():
        named[kind] += count
    listed = joined([f"{kind} ({counted(count, 'shard')})" for kind, count in named.items()])
    groups: dict[str, list[str]] = {}
    for kind, bits in known:
        groups.setdefault(bits, []).append(kind)
    if len(groups) == 1:
        return f"{listed}. They make the same bits of the operations that trainings consist of."
    apart = [" and ".join(dict.fromkeys(some)) for some in groups.values()]
    if len(set(apart)) < len(apart):  # one name, several libraries behind it
        return (
            f"{listed}. Bits differ between processors of that name: runs of different shards "
            "differ by rounding, beside what tells them apart."
        )
    return (
        f"{listed}. Bits differ between {joined(apart)}: the same run would differ by rounding, "
        "which grows with the steps. Strategies whose shards lie on different kinds are compared "
        "up to that."
    )
