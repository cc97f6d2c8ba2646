"""Decoding and restoration: from a photo to a restored photo."""

from infer.restore import Restoration, Restorer

__all__ = ["Restoration", "Restorer"]
