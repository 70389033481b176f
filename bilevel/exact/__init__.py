"""Exact heads as plain functions of tensors, differentiable, for any PyTorch code."""

from bilevel.exact.ridge import ridge_head as ridge_head
