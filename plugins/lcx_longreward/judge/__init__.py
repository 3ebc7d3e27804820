"""The judge: four scorers, their prompts, and how replies are read."""
