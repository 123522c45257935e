"""Scores of generalized zero-shot learning, as functions and as a metric of the `evaluate` library."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "gzsl": ["GZSL"],
        "scores": ["calibrate", "gzsl_compute_metrics", "gzsl_scores", "seen_unseen_curve"],
    },
)
