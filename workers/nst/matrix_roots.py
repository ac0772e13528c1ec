"""Square roots of symmetric positive matrices by Newton-Schulz iteration: products alone, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def square_root(matrix: Tensor, iterations: int) -> Tensor:
    """Return the root of a symmetric positive definite matrix, `[C, C]`.

    Eigenvalues that are small beside the norm need more iterations: each brings a factor of 1.5 at most.
    """
    norm = torch.linalg.matrix_norm(matrix)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root, inverse = matrix / norm, eye
    for _ in range(iterations):
        step = (3 * eye - inverse @ root) / 2
        root, inverse = root @ step, step @ inverse
    scaled: Tensor = root * norm.sqrt()
    return scaled


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
        root = square_root(matrix, iterations)
        ctx.save_for_backward(root)
        ctx.iterations = iterations
        return root.trace()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        norm = torch.linalg.matrix_norm(root)
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        sign, inverse = root / norm, eye / norm
        for _ in range(ctx.iterations):
            step = (3 * eye - sign @ sign) / 2
            sign, inverse = sign @ step, inverse @ step
        return inverse * (gradient / 2), None
