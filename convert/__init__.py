"""PyTorch <-> Flax: published checkpoints to this library's model directories and back, and how equal they are."""
