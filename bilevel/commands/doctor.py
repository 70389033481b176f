"""`bilevel doctor`."""

import dataclasses

from bilevel.commands.exit_codes import FAILED, OK
from bilevel.errors import BilevelError, MissingDataError
from bilevel.problem import registry


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Check the installation: versions, devices, registered problems, one gradient."""

    engine: str = ""
    """Check this engine of `compare --engine` instead: one tiny job is sent there."""
    timeout: float = 60.0
    """Seconds to wait for that job."""

    def run(self) -> int:
        """Print the findings; 1 if something is wrong."""
        if self.engine:
            from bilevel.commands.engine_check import check_engine

            return check_engine(self.engine, self.timeout)
        import torch

        import bilevel
        from bilevel.storage.environment import environment

        found = environment(threads=torch.get_num_threads())
        for key, value in found.items():
            print(f"{key:16} {value}")
        print(f"{'cuda':16} {'available' if torch.cuda.is_available() else 'not available'}")
        healthy = True
        for name in registry.names():
            try:
                factory = registry.load(name)
                needed = registry.required_options(factory)
                if not needed:  # looking is not downloading
                    known = registry.options_of(factory)
                    registry.load_problem(
                        name, **({"download": False} if "download" in known else {})
                    )
                print(f"{name:16} {'needs ' + ' and '.join(needed) if needed else 'ok'}")
            except MissingDataError as error:
                print(f"{name:16} needs a file: {error}")
            except (BilevelError, ImportError) as error:
                healthy = False
                print(f"{name:16} {error}")
        problem = registry.load_problem("scalar-product")
        body = torch.tensor(2.0, dtype=torch.float64)
        # Phi'(w) = -lambda w / (w^2 + lambda)^2 + mu w at w = 2, lambda = 1, mu = 0.1
        off = abs(float(bilevel.hypergradient(problem, body).body) - (-2 / 25 + 0.2))
        healthy &= off < 1e-12
        print(f"{'gradient':16} off by {off:.1e} from the closed form of Lemma 4.1")
        print("All is well." if healthy else "Something is wrong: see above.")
        return OK if healthy else FAILED
