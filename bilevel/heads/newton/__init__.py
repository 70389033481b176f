"""Newton's method for heads of convex objectives."""
