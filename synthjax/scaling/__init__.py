"""Scaling laws of self-training: fits of error against anything, from any table of results."""
