"""How good a restored picture is: distortion, perceptual distance, naturalness."""
