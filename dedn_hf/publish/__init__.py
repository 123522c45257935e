"""A trained model for others: its card, the Hub, other runtimes, a web server."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "card": ["write_card"],
        "describing": ["describe_classes"],
        "export": ["export_model"],
        "hub": ["push_data", "push_model"],
        "saved": ["load_model"],
        "serving": ["serve"],
    },
)
