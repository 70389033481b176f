"""Gram matrices with a weight for each row, and for each two outputs."""

from torch import Tensor

CHUNK = 1024
"""Rows at a time, so that what belongs to them stays in cache."""


def interacting_gram(design: Tensor, outer: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """sum_i (diag(d_i) - f_i f_i') (x) z_i z_i' of one run, output by output.

    Args:
        design: z, (n, M).
        outer: f, (n, K).
        diagonal: d, (n, K); None: d_k = f_k sum_l f_l, so that vectors of equal numbers are mapped
            to zero. Then the blocks of each row of blocks add up to zero, which saves a product.

    Returns:
        (K M, K M).
    """
    m, k = design.shape[1], outer.shape[1]
    # f f' (x) z z' is the product of f (x) z with itself: one matrix product for all outputs, where
    # diag(d) asks for one more of each; chunks keep f (x) z, K times as large as z, in the cache
    found = design.new_zeros(k * m, k * m)
    own = design.new_zeros(k * m, m)
    for begin in range(0, len(design), CHUNK):
        z, f = design[begin : begin + CHUNK], outer[begin : begin + CHUNK]
        columns = (f.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
        for j in range(0, k * m, m):
            # the blocks right of the diagonal; those left of it are their transposes
            found[j : j + m, j:].addmm_(columns[:, j : j + m].T, columns[:, j:])
        if diagonal is not None:
            d = diagonal[begin : begin + CHUNK]
            own.addmm_((d.unsqueeze(2) * z.unsqueeze(1)).flatten(1).T, z)
    upper = found.triu()
    whole = (upper + upper.triu(1).T).view(k, m, k, m)
    added = whole.sum(2) if diagonal is None else own.view(k, m, m)
    whole.neg_().diagonal(dim1=0, dim2=2).add_(added.permute(1, 2, 0))
    return whole.view(k * m, k * m)


def weighted_gram(design: Tensor, weights: Tensor) -> Tensor:
    """Z'SZ of R runs, (R, M, M), for features (R, n, M) and weights (R, n, 1)."""
    found = design.new_zeros(len(design), design.shape[2], design.shape[2])
    for begin in range(0, design.shape[1], 2 * CHUNK):
        z, s = (x[:, begin : begin + 2 * CHUNK] for x in (design, weights))
        found.baddbmm_((z * s).mT, z)
    return found
