"""Train the small style `ink`: a network that imitates a filter which prints photographs in ink.

    python examples/demo_style.py ink.safetensors
    python examples/bundle_styles.py ink.safetensors

No painting and no network of others is used. The filter below is computed: paint is laid in patches
(generalized Kuwahara filter, Papari et al. 2007), tones are drawn into soft steps (Winnemoeller et al. 2006)
and mapped to five inks, and edges get a line (difference of Gaussians, Winnemoeller 2011). A `TransformerNet`
of base width 8 learns to do the same to photographs that scikit-image ships and that are free to use. That
takes about twenty minutes on one thread of a CPU; started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from workers.nst.style_models import StyleMetadata, save_style_model
from workers.nst.transformer import TransformerNet

# CC0 or public domain, as the functions of skimage.data that load them say.
PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "gravel.png", "rocket.jpg"
)  # fmt: skip

INKS = ((24, 24, 62), (23, 92, 122), (222, 88, 72), (247, 178, 90), (255, 243, 214))
"""RGB from shadow to light: indigo, petrol, vermilion, ocher, cream."""

LUMA = (0.299, 0.587, 0.114)
PATCH_PX = 3.5
REACH_PX = 8
SECTORS = 8
WIDTH = 8
CROP_PX = 192
BATCH = 4
STEPS = 2000
LEARNING_RATE = 4e-3
AVERAGE_OVER_STEPS = 200
STEPS_BETWEEN_SAVES = 100


# --- the filter -----------------------------------------------------------------------------------


def printed(pictures: Tensor) -> Tensor:
    """Return the pictures as the filter prints them.

    Tones are taken relative to mean and spread of each picture, as a network with instance norm sees them.

    Args:
        pictures: Float NCHW, RGB in 0..1.

    Returns:
        Float NCHW, RGB in 0..1.
    """
    painted = patches(pictures)
    spread, mean = torch.std_mean(painted, dim=(1, 2, 3), keepdim=True)
    spread = spread + 0.02
    luma = _luma(painted)
    tone = torch.sigmoid(1.4 * (luma - mean) / spread - 0.3)
    inked = _through_inks(_in_steps(tone, 6))
    chroma = (painted - luma) / spread
    chroma = chroma - chroma.mean(dim=(2, 3), keepdim=True)
    colored = (inked + 0.11 * chroma).clamp(0, 1)
    lines = _lines(_luma(pictures), spread)
    dark = colored.new_tensor(INKS[0]).view(1, 3, 1, 1) / 255
    return colored * lines + dark * (1 - lines)


def patches(pictures: Tensor) -> Tensor:
    """Return the pictures with every pixel averaged over the calmest sectors of the disk around it."""
    kernels = _sectors(pictures)
    count, _, height, width = pictures.shape
    luma = _luma(pictures)
    # Sectors are calm where the luma varies little: one more channel is enough to know.
    layers = torch.cat([pictures, luma.square()], dim=1)
    padded = functional.pad(layers, (REACH_PX,) * 4, mode="reflect").flatten(0, 1).unsqueeze(1)
    means = functional.conv2d(padded, kernels).view(count, 4, SECTORS, height, width)
    color, square = means[:, :3], means[:, 3:]
    variance = (square - _luma(color).square()).clamp_min(0)
    weight = 1 / (1e-3 + variance.sqrt()).pow(8)
    return (color * weight).sum(dim=2) / weight.sum(dim=2)


def _sectors(like: Tensor) -> Tensor:
    """Return (SECTORS, 1, k, k) kernels: eighths of a disk with soft borders, each of sum 1."""
    side = torch.arange(-REACH_PX, REACH_PX + 1, dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(side, side, indexing="ij")
    angle = torch.atan2(y, x)
    middle = torch.arange(SECTORS, dtype=like.dtype, device=like.device) * (2 * math.pi / SECTORS)
    toward = torch.cos(angle - middle.view(-1, 1, 1)).clamp_min(0).pow(8)
    disk = torch.exp(-(x.square() + y.square()) / (2 * PATCH_PX**2))
    kernels = toward * disk
    return (kernels / kernels.sum(dim=(1, 2), keepdim=True)).unsqueeze(1)


def _luma(pictures: Tensor) -> Tensor:
    """Return the luma of colors in dimension 1, which stays."""
    return torch.tensordot(pictures.new_tensor([LUMA]), pictures, ([1], [1])).transpose(0, 1)


def _in_steps(tone: Tensor, steps: int) -> Tensor:
    """Return a tone in 0..1 drawn toward the middle of `steps` equal steps."""
    scaled = tone * steps
    whole = scaled.floor()
    return (whole + 0.5 + 0.5 * torch.tanh(5 * (scaled - whole - 0.5)) / math.tanh(2.5)) / steps


def _through_inks(tone: Tensor) -> Tensor:
    """Return N3HW colors between the inks for N1HW tones in 0..1."""
    inks = tone.new_tensor(INKS) / 255
    position = tone.clamp(0, 1).squeeze(1) * (len(INKS) - 1)
    lower = position.floor().clamp_max(len(INKS) - 2)
    share = (position - lower).unsqueeze(-1)
    index = lower.long()
    return (inks[index] * (1 - share) + inks[index + 1] * share).permute(0, 3, 1, 2)


def _lines(luma: Tensor, spread: Tensor) -> Tensor:
    """Return 0 on dark lines along edges and 1 elsewhere, N1HW."""
    difference = (_blurred(luma, 1.2) - _blurred(luma, 2.4)) / spread
    return (1 + torch.tanh(9 * (difference + 0.1))).clamp(0, 1)


def _blurred(x: Tensor, sigma_px: float) -> Tensor:
    radius_px = math.ceil(3 * sigma_px)
    offset = torch.arange(-radius_px, radius_px + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-offset.square() / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(x, (radius_px,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


# --- the training ---------------------------------------------------------------------------------


def photographs() -> list[Tensor]:
    """Return the photographs as float 3HW, RGB in 0..1."""
    folder = Path(skimage.__file__).parent / "data"
    pictures = []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB")))
        pictures.append(pixels.permute(2, 0, 1).float() / 255)
    return pictures


def batch(pictures: list[Tensor], step: int) -> Tensor:
    """Return what step number `step` trains on, whatever came before: float NCHW crops, RGB in 0..1."""
    chance = torch.Generator().manual_seed(step)
    return torch.stack([_crop(pictures, chance) for _ in range(BATCH)])


def _crop(pictures: list[Tensor], chance: torch.Generator) -> Tensor:
    picture = pictures[_below(len(pictures), chance)]
    largest_px = min(picture.shape[1:])
    side_px = 140 + _below(largest_px - 140, chance)
    top = _below(picture.shape[1] - side_px + 1, chance)
    left = _below(picture.shape[2] - side_px + 1, chance)
    crop = picture[None, :, top : top + side_px, left : left + side_px]
    crop = functional.interpolate(crop, CROP_PX, mode="bilinear", antialias=True, align_corners=False)[0]
    crop = torch.rot90(crop, _below(4, chance), (1, 2))
    if _below(2, chance):
        crop = crop.flip(2)
    if _below(2, chance):
        crop = crop[torch.randperm(3, generator=chance)]
    gamma, gain = torch.rand(2, 3, 1, 1, generator=chance)
    return (crop.clamp(0, 1).pow(0.7 + 0.7 * gamma) * (0.7 + 0.4 * gain)).clamp(0, 1)


def _below(end: int, chance: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=chance))


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return how far two NCHW batches are apart, in values and in what is between neighboring pixels."""
    off = output - target
    return off.abs().mean() + (off.diff(dim=2).abs().mean() + off.diff(dim=3).abs().mean())


def train(state_file: Path, steps: int) -> TransformerNet:
    """Return the trained network, which gives RGB in 0..1; what is in `state_file` is continued, and kept."""
    torch.manual_seed(0)
    net = TransformerNet(WIDTH)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / AVERAGE_OVER_STEPS)
    )
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    parts = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    if state_file.exists():
        for name, state in torch.load(state_file, weights_only=True).items():
            parts[name].load_state_dict(state)
    pictures = photographs()
    began_s, first, recent = time.monotonic(), schedule.last_epoch, 0.0
    for step in range(first, steps):
        x = batch(pictures, step)
        with torch.no_grad():
            target = printed(x)
        value = loss(net(255 * x), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(net)
        recent = 0.98 * recent + 0.02 * value.item() if recent else value.item()
        if (step + 1) % STEPS_BETWEEN_SAVES == 0 or step + 1 == steps:
            _save(state_file, {name: part.state_dict() for name, part in parts.items()})
            pace_s = (time.monotonic() - began_s) / (step + 1 - first)
            print(f"step {step + 1} of {steps}: loss {recent:.4f}, {pace_s:.2f} s each", flush=True)
    return average.module


def _save(path: Path, state: dict[str, object]) -> None:
    """Write in one move, so that there is always a whole file."""
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def finished(trained: TransformerNet) -> TransformerNet:
    """Return the network with RGB in 0..255 out and weights that float16 holds exactly."""
    net = TransformerNet(WIDTH)
    net.load_state_dict(trained.state_dict())
    with torch.no_grad():
        for parameter in net.deconv3.parameters():
            parameter.mul_(255)
        for parameter in net.parameters():
            parameter.copy_(parameter.half().float())
    return net


METADATA = StyleMetadata(
    name="ink",
    width=WIDTH,
    origin="trained",
    license="Apache-2.0",
    source="made by examples/demo_style.py from a procedural filter; no painting, no network of others",
)


def main() -> None:
    """Train and write the style model."""
    parser = argparse.ArgumentParser(description="Train the style `ink`.")
    parser.add_argument("output", type=Path, help="the style model to write")
    parser.add_argument("--state", type=Path, default=Path("demo-output/training.pt"), help="to go on from")
    parser.add_argument("--steps", type=int, default=STEPS, help="how many batches to train on")
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU to use")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.state.parent.mkdir(parents=True, exist_ok=True)
    save_style_model(options.output, finished(train(options.state, options.steps)), METADATA)
    print(f"wrote {options.output}, {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
