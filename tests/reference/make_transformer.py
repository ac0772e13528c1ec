"""Make transformer_w2.npz: the picture that the plain network gives for made-up weights, in float64.

Run from the root of the repository: python -m tests.reference.make_transformer
When its content has to change, results that farms have made are other pictures than new ones: then
PIXELS_VERSION in jobs/records.py grows with it.
"""

from pathlib import Path

import numpy as np

from tests.workers.nst.plain import plain_transformer, seeded_picture, seeded_state

SIZES = [(37, 50), (24, 20)]
TARGET = Path(__file__).parent / "transformer_w2.npz"

if __name__ == "__main__":
    pictures = {}
    for height, width in SIZES:
        x = seeded_picture(height, width).permute(2, 0, 1)[None].double()
        y = plain_transformer(seeded_state(2), x)[0, :, :height, :width]
        pictures[f"{height}x{width}"] = y.permute(1, 2, 0).float().numpy()
    np.savez_compressed(TARGET, **pictures)  # type: ignore[arg-type]  # its stub takes names for flags
