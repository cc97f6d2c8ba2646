"""NSARM, the second family: bitwise image tokenizer, next-scale transformer, and the network of its first scales."""
