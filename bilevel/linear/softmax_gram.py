"""The Hessian of a linear head whose outputs interact, as those of a softmax do."""

from torch import Tensor

CHUNK = 1024
"""Rows at a time, so that what belongs to them stays in cache."""


def interacting_gram(design: Tensor, diagonal: Tensor, outer: Tensor) -> Tensor:
    """sum_i (diag(d_i) - f_i f_i') (x) z_i z_i' of one run, output by output.

    Args:
        design: z, (n, M).
        diagonal: d, (n, K).
        outer: f, (n, K).

    Returns:
        (K M, K M).
    """
    m, k = design.shape[1], diagonal.shape[1]
    found = design.new_zeros(k * m, k * m)
    own = design.new_zeros(k, m, m)
    for begin in range(0, len(design), CHUNK):
        z, d, f = (x[begin : begin + CHUNK] for x in (design, diagonal, outer))
        columns = (f.unsqueeze(2) * z.unsqueeze(1)).reshape(len(z), k * m)
        for j in range(k):
            # the blocks right of the diagonal; those left of it are their transposes
            left = columns[:, j * m : (j + 1) * m]
            found[j * m : (j + 1) * m, j * m :].addmm_(left.T, columns[:, j * m :], alpha=-1)
        weighted = d.T.unsqueeze(2) * z
        own.baddbmm_(weighted.mT, z.expand(k, *z.shape))
    blocks = found.view(k, m, k, m)
    blocks.diagonal(dim1=0, dim2=2).add_(own.permute(1, 2, 0))
    upper = found.triu()
    return upper + upper.triu(1).T
