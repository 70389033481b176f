"""`bilevel problems` and `bilevel strategies`."""

import dataclasses

from bilevel.commands.exit_codes import OK
from bilevel.problem import registry
from bilevel.problem.listing import listing


@dataclasses.dataclass(frozen=True)
class Problems:
    """List the problems with their options."""

    def run(self) -> int:
        """Print them."""
        for name in registry.names():
            summary, options = listing(name)
            print(f"{name:16} {summary}")
            shown = (
                f"{k}={'(needed)' if v is registry.REQUIRED else v}" for k, v in options.items()
            )
            print(f"{'':16} {' '.join(shown)}")
        return OK


@dataclasses.dataclass(frozen=True)
class Strategies:
    """List the strategies that `compare` knows by name."""

    body_lr: float = 5e-4
    """alpha, the slow rate."""
    head_lr: float = 5e-3
    """beta, the fast rate: above alpha."""

    def run(self) -> int:
        """Print them."""
        import bilevel
        from bilevel.strategies.presets import BALANCED, PRESETS, RUNNING

        names = (*PRESETS, RUNNING, BALANCED)
        presets = bilevel.preset_strategies(self.body_lr, self.head_lr, names=names)
        for name, strategy in presets.items():
            print(f"{name:22} {strategy}")
        return OK
