"""How many operations of torch a block makes."""

from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):
    """`made` in all, and the `names` of all of them in turn."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    @property
    def made(self):
        return len(self.names)

    def of(self, *kinds):
        """How many are of these kinds."""
        return sum(any(kind in name for kind in kinds) for name in self.names)
