"""Square roots of symmetric positive matrices, by as many Newton-Schulz steps as a system takes.

Each step is a polynomial of the matrix, and so changes its eigenvalues alone. On a CPU these are computed
once and iterated as numbers: the same root for a tenth of the work. A GPU is fast at products and slow at
eigenvalues, so there the matrix itself is iterated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Times = Callable[[Tensor, Tensor], Tensor]


def square_root(matrix: Tensor, iterations: int) -> Tensor:
    """Return the root of a symmetric positive definite matrix, `[C, C]`.

    Eigenvalues that are small beside the norm need more iterations: each brings a factor of 1.5 at most.
    """
    if not _has_fast_eigenvalues(matrix):
        return _root(matrix, iterations, _eye_like(matrix), torch.matmul)
    values, vectors = torch.linalg.eigh(matrix)
    roots = _root(values, iterations, torch.ones_like(values), torch.mul)
    return _assembled(roots, vectors)


def root_trace(matrix: Tensor, iterations: int) -> Tensor:
    """Return the trace of the root of a symmetric positive definite matrix, differentiable once.

    The derivative of the root solves a Lyapunov equation, which the same iteration does (Lin and Maji 2017,
    Improved Bilinear Pooling with CNNs). Of the trace it is half the inverse root, and all that the iteration
    multiplies commutes: three products in each step instead of six.
    """
    trace: Tensor = _RootTrace.apply(matrix, iterations)
    return trace


class _RootTrace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        ctx.iterations = iterations
        ctx.by_eigenvalues = _has_fast_eigenvalues(matrix)
        if ctx.by_eigenvalues:
            values, vectors = torch.linalg.eigh(matrix)
            roots = _root(values, iterations, torch.ones_like(values), torch.mul)
            ctx.save_for_backward(roots, vectors)
            return roots.sum()
        root = _root(matrix, iterations, _eye_like(matrix), torch.matmul)
        ctx.save_for_backward(root)
        return root.trace()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.by_eigenvalues:
            roots, vectors = ctx.saved_tensors
            inverses = _inverse(roots, ctx.iterations, torch.ones_like(roots), torch.mul)
            inverse = _assembled(inverses, vectors)
        else:
            (root,) = ctx.saved_tensors
            inverse = _inverse(root, ctx.iterations, _eye_like(root), torch.matmul)
        return inverse * (gradient / 2), None


def _has_fast_eigenvalues(matrix: Tensor) -> bool:
    """Return whether to ask for eigenvalues, which there are none of where an entry is not finite."""
    return matrix.device.type == "cpu" and bool(torch.isfinite(matrix).all())


def _assembled(values: Tensor, vectors: Tensor) -> Tensor:
    matrix: Tensor = (vectors * values) @ vectors.T
    return matrix


def _root(square: Tensor, iterations: int, one: Tensor, times: Times) -> Tensor:
    """Return the root of a matrix (`one` is the identity) or of each of its eigenvalues."""
    norm = torch.linalg.vector_norm(square)
    root, inverse = square / norm, one
    for _ in range(iterations):
        step = (3 * one - times(inverse, root)) / 2
        root, inverse = times(root, step), times(step, inverse)
    scaled: Tensor = root * norm.sqrt()
    return scaled


def _inverse(root: Tensor, iterations: int, one: Tensor, times: Times) -> Tensor:
    """Return the inverse of a root, as the iteration for the Lyapunov equation comes to it."""
    norm = torch.linalg.vector_norm(root)
    sign: Tensor = root / norm
    inverse: Tensor = one / norm
    for _ in range(iterations):
        step = (3 * one - times(sign, sign)) / 2
        sign, inverse = times(sign, step), times(inverse, step)
    return inverse


def _eye_like(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
