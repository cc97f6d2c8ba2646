"""NSARM: its PyTorch names, and the files that they lie in."""
