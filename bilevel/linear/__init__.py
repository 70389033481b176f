"""Linear systems H v = b of the head's Hessian."""
