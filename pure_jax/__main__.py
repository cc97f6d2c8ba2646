"""`python -m pure_jax` is `pure`."""

from pure_jax.cli import main

if __name__ == "__main__":
    main()
