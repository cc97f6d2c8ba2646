"""Decoding and restoration: from a photo to a restored photo. Start at `restore.Restorer`."""
