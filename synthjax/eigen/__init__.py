"""Eigenvalues of symmetric matrices by a transformer that learns from its own guesses."""
