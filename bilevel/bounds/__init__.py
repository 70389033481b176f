"""Error bounds of heads and of gradients."""
