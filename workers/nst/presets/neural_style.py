"""neural-style-pt by ProGamerGov, the port of jcjohnson/neural-style that its users run today."""

from __future__ import annotations

from workers.nst.inits import Init
from workers.nst.lbfgs import LbfgsSettings
from workers.nst.multiscale import Schedule, StyleSize
from workers.nst.presets.gatys import compose
from workers.nst.recipes import Recipe

# Its Gram matrices are divided by C H W and compared by their mean square. That is Gatys' term: where G is
# divided by H W alone, the 1 / C^2 comes out of the square.
RECIPE = Recipe(
    name="neural-style",
    summary="neural-style-pt, jcjohnson's recipe in PyTorch: Gram matrices, L-BFGS from noise, L1 variation",
    compose=compose,
    family="caffe",
    content_weight=5.0,
    style_weight=100.0,
    tv_weight=1e-3,
    tv_form="absolute",
    centered=True,
    optimizer=LbfgsSettings(learning_rate=1.0, history=100),
    init=Init("noise", sigma=0.001 / 255),
    schedule=Schedule(smallest_px=None, iterations=1000, first_iterations=1000),
    style_size=StyleSize("longest", enlarge=True),
)
