"""The floor that every room stands on: argument checks, weights, files, optimizers. Keras and NumPy only."""
