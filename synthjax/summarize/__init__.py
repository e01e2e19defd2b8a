"""Summarization: articles and their summaries, and a generator that learns from its own."""
