"""Memory and FLOPs of a training step from shapes alone: pure arithmetic, no torch, nothing loaded.

`model` has shapes and plans, `memory` what a plan costs, `cards` on what, `steps` the plan of a recipe's step.
"""
