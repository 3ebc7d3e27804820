"""Tests of the command line and of completion, as a user meets them."""
