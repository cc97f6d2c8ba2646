"""Decoding: from the codes of a low-quality picture to those of a restored one; one file per way."""
