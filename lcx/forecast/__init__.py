"""Memory and FLOPs of a training step from shapes alone: pure arithmetic, no torch, nothing loaded.

`shapes` knows models, `plans` what a step does with one, `memory` and `flops` what that costs, `cards` on what.
"""
