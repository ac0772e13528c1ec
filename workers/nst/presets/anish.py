"""neural-style by anishathalye, the TensorFlow program of 2015 that many articles use."""

from __future__ import annotations

from workers.nst.inits import Init
from workers.nst.multiscale import Schedule, StyleSize
from workers.nst.optimizers import AdamSettings
from workers.nst.presets.gatys import compose
from workers.nst.recipes import STYLE_LAYERS, Recipe, exponential_weights

# Its weights come from MatConvNet: the Caffe ones for RGB. Its pooling keeps an odd last row and column, ours
# drops them. Its terms are Gatys' with other weights: it, too, divides by N^2 and then by C^2.
RECIPE = Recipe(
    name="anish",
    summary="anishathalye/neural-style: Gram matrices, Adam from noise; several styles add up as losses",
    compose=compose,
    family="caffe",
    content_layers={"relu4_2": 1.0, "relu5_2": 0.0},
    style_layers=exponential_weights(STYLE_LAYERS, 1.0),
    content_weight=5.0,
    style_weight=500.0,
    tv_weight=100.0,
    tv_form="squared",
    blend="losses",
    centered=True,
    optimizer=AdamSettings(learning_rate=10.0, betas=(0.9, 0.999), eps=1e-8),
    init=Init("content", sigma=0.256 / 255, noise_blend=1.0),
    schedule=Schedule(smallest_px=None, iterations=1000, first_iterations=1000),
    style_size=StyleSize("width", enlarge=True),
)
