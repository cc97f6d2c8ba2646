"""What a user may decide of a restoration: words, seeds, fidelity, the device; and the watch over its tiles."""
