"""`python -m train`: the steps that make a model, one sub-command each, in the order of TRAINING in the README."""

from train.commands import main

main()
