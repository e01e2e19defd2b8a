"""Figures of labelled results."""
