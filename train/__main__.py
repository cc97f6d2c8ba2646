"""`python -m train` is `pure train`, by a name that works in a checkout."""

import sys

from pure_jax.__main__ import main

main(["train", *sys.argv[1:]])
