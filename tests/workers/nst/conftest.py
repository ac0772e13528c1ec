"""Algorithms are tested on tiny pictures: there a second thread only waits, for long on a busy machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
