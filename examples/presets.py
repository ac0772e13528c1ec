"""Render one photograph in the style of one painting or more in every preset, side by side on a sheet.

    python examples/presets.py photo.jpg painting.jpg out --weights vgg19.pth --family caffe

It uses the engine as a library: no farm, no Ray. The presets `default` and `crowson` are made for weights of
torchvision. With `--channel-scale FILE`, which brings Caffe's large activations to about one, they get those
instead; the others always get the weights as they are. A preset whose own network is another one (`inetwork`:
VGG-16) gets the network that is given.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workers.contact_sheets import contact_sheet
from workers.images import decode
from workers.nst.features import LossNetwork
from workers.nst.loss_networks import import_loss_network
from workers.nst.optimization import Iteration, Optimization, Pictures
from workers.nst.presets import PRESETS, preset
from workers.nst.recipes import Recipe
from workers.nst.whole import WholeStage

MAX_MEGAPIXELS = 200
BETWEEN_LINES_S = 20


@dataclass(frozen=True)
class Networks:
    """One loss network twice: as its file has it, and with the channels scaled, where factors were given."""

    plain: LossNetwork
    scaled: LossNetwork

    def of(self, recipe: Recipe) -> LossNetwork:
        """Return the one whose magnitudes are nearer to those that the recipe was tuned for."""
        return self.plain if recipe.family == self.plain.preprocessing.name else self.scaled


def load_networks(arguments: argparse.Namespace) -> Networks:
    """Return the network of the command line."""
    plain = import_loss_network(arguments.weights, arguments.network, arguments.family)
    if arguments.channel_scale is None:
        return Networks(plain, plain)
    scaled = import_loss_network(
        arguments.weights, arguments.network, arguments.family, arguments.channel_scale
    )
    return Networks(plain, scaled)


def load(path: Path) -> Tensor:
    """Return a picture as `[1, 3, H, W]`, RGB in 0..1."""
    pixels = decode(path.read_bytes(), max_megapixels=MAX_MEGAPIXELS).pixels
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0) / 255


def save(picture: Tensor, path: Path) -> None:
    """Write `[1, 3, H, W]`, RGB in 0..1, as 8 bits."""
    pixels = (picture[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


class Progress:
    """Prints where a render is, now and then, and remembers its last loss."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = 0.0
        self.terms: dict[str, float] = {}

    def __call__(self, iteration: Iteration) -> None:
        """Note an iteration."""
        self.terms = iteration.terms
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + BETWEEN_LINES_S
            height, width = iteration.size
            print(
                f"{self._name}: {width}x{height} px, evaluation {iteration.evaluations} of "
                f"{iteration.budget}, loss {iteration.loss:.6g}",
                flush=True,
            )


def render(recipe: Recipe, network: LossNetwork, pictures: Pictures, arguments: argparse.Namespace) -> Tensor:
    """Return the picture that a recipe makes."""
    scales = recipe.schedule.scales(arguments.size, arguments.iterations)
    optimization = Optimization(recipe, network, pictures, scales, open_stage=WholeStage, seed=arguments.seed)
    progress = Progress(recipe.name)
    optimization.run(progress)
    print(recipe.name, {name: float(f"{value:.4g}") for name, value in progress.terms.items()}, flush=True)
    return optimization.picture()


def main() -> None:
    """Render in each preset and make the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("painting", type=Path, nargs="+")
    parser.add_argument("output", type=Path, help="folder for the pictures and sheet.jpg")
    parser.add_argument(
        "--blend", type=float, nargs="+", help="weight of each painting, all alike unless told"
    )
    parser.add_argument("--weights", type=Path, required=True, help="file of torch of the loss network")
    parser.add_argument("--network", default="vgg19", help="its architecture")
    parser.add_argument("--family", default="torchvision", help="of the weights: torchvision or caffe")
    parser.add_argument("--channel-scale", type=Path, help="file with a factor for each channel")
    parser.add_argument("--presets", default=",".join(PRESETS), help="names, separated by commas")
    parser.add_argument("--size", type=int, default=384, help="longest side in pixels")
    parser.add_argument("--iterations", type=int, default=200, help="evaluations over all scales")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    networks = load_networks(arguments)
    blend = arguments.blend or [1.0] * len(arguments.painting)
    paintings = [(w, load(path)) for w, path in zip(blend, arguments.painting, strict=True)]
    pictures = Pictures(load(arguments.photo), tuple(paintings))
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in arguments.presets.split(","):
        recipe = preset(name)
        paths.append(arguments.output / f"{name}.png")
        save(render(recipe, networks.of(recipe), pictures, arguments), paths[-1])
    sheet = contact_sheet([(path, path.stem, None) for path in paths], 3, thumbnail_px=arguments.size)
    sheet.save(arguments.output / "sheet.jpg", quality=90)


if __name__ == "__main__":
    main()
