"""The synth step: contexts, tasks about them, and candidates."""
