"""Tests of the core: recipes, layering, plugins, runs."""
