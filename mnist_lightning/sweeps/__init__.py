"""Experiments of many runs: what is swept, who trains what, and what came of it."""
