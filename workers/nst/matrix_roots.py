"""Square roots of symmetric positive matrices by Newton-Schulz iteration: products alone, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def square_root(matrix: Tensor, iterations: int) -> Tensor:
    """Return the root of a symmetric positive definite matrix, `[C, C]`, differentiable once.

    The gradient solves the Lyapunov equation of the root by the same iteration (Lin and Maji 2017,
    Improved Bilinear Pooling with CNNs): it needs no graph of the forward iteration.
    """
    root: Tensor = _SquareRoot.apply(matrix, iterations)
    return root


class _SquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        norm = torch.linalg.matrix_norm(matrix)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        root: Tensor = matrix / norm
        inverse = eye
        for _ in range(iterations):
            step = (3 * eye - inverse @ root) / 2
            root, inverse = root @ step, step @ inverse
        root = root * norm.sqrt()
        ctx.save_for_backward(root)
        ctx.iterations = iterations
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (root,) = ctx.saved_tensors
        norm = torch.linalg.matrix_norm(root)
        eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        a, q = root / norm, gradient / norm
        for _ in range(ctx.iterations):
            step = 3 * eye - a @ a
            q = (q @ step - a.T @ (a.T @ q - q @ a)) / 2
            a = a @ step / 2
        return q / 2, None
