"""Probes: questions that are made from a corpus, and perplexity, which is read from it."""
