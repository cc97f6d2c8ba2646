"""Training NSARM: the bitwise image tokenizer, the map network (stage 1), both networks together (stage 2)."""
