"""Many trainings compared, runs repeated, and explanations put to the test."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "reproduction": ["reproduce"],
        "report": ["write_report"],
        "study": ["Study", "execute", "make_plan"],
    },
)
