"""What models are trained on: photographs, their degradation, labels and records of codes."""
