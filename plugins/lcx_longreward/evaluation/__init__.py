"""The eval step: judged tasks, their data, numbers and pictures."""
