"""Metrics of generalized zero-shot learning."""
