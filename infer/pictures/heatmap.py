"""The entropy heat map: where the model was sure of its token (dark) and where it had to choose (bright)."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Dark blue to pale yellow; lightness rises all the way, so the order survives grey printing and colour blindness.
ANCHORS = np.array([(8, 8, 40), (72, 20, 120), (182, 50, 112), (242, 130, 56), (252, 242, 172)], np.float64)


def entropy_heatmap(entropy: np.ndarray, max_nats: float, size: tuple[int, int]) -> Image.Image:
    """Colour an entropy map.

    entropy: float [h, w], nats per token; values outside 0..max_nats are clipped, and what is no number is brightest.
    max_nats: the brightest value, such as ln(codebook size). size: (width, height) of the result in pixels, each token
    a rectangle of one colour. Returns an RGB image. Raises ValueError if max_nats is not positive.
    """
    if not max_nats > 0:
        raise ValueError(f"max_nats is {max_nats}, but it must be positive")
    fraction = np.clip(np.nan_to_num(np.asarray(entropy, np.float64) / max_nats, nan=1.0), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(ANCHORS))
    colours = np.stack([np.interp(fraction, stops, channel) for channel in ANCHORS.T], axis=-1)
    return Image.fromarray(np.rint(colours).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
