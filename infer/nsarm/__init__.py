"""NSARM's way to restore: the first scales at once, then one pass for each scale."""
