"""The plain PyTorch loop that the farm is measured against: decode, render, encode, one after the other.

Prints one JSON line: pictures, seconds, the seconds in which the network did not run, peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from workers.nst.transformer import TransformerNet


def main() -> None:
    """Render the photos named on the command line into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="state dict of pytorch/examples")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--allocator", action="store_true", help="tune the allocator as the farm's workers do"
    )
    parser.add_argument("photos", type=Path, nargs="+")
    options = parser.parse_args()
    if options.allocator:
        from workers.memory import tune_allocator

        tune_allocator()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    state = torch.load(options.weights, weights_only=True)
    net = TransformerNet(width=state["conv1.conv2d.weight"].shape[0])
    net.load_state_dict(state)
    began = time.perf_counter()
    network_s = 0.0
    with torch.inference_mode():
        for photo in options.photos:
            pixels = np.asarray(Image.open(photo).convert("RGB"))
            x = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
            since = time.perf_counter()
            y = net(x)
            network_s += time.perf_counter() - since
            out = y[0].clamp(0, 255).round().permute(1, 2, 0).byte().numpy()
            Image.fromarray(out).save(options.output / photo.name, quality=95, subsampling=0)
    seconds = time.perf_counter() - began
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer = {
        "pictures": len(options.photos),
        "seconds": seconds,
        "waited_s": seconds - network_s,
        "memory_bytes": memory_bytes,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
