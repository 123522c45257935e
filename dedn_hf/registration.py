"""Makes the Auto classes of transformers know DEDN, so that an installed dedn_hf needs no `trust_remote_code`.

`import dedn_hf` imports neither torch nor transformers. So registration waits until transformers loads its table of
models, whichever of the two packages is imported first.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

AUTO_MODELS = "transformers.models.auto.modeling_auto"


def register() -> None:
    """Register configuration and model with transformers' Auto classes."""
    from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

    from dedn_hf.modeling.configuration_dedn import DEDNConfig
    from dedn_hf.modeling.modeling_dedn import DEDNForZeroShot

    AutoConfig.register(DEDNConfig.model_type, DEDNConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForZeroShotImageClassification):
        auto.register(DEDNConfig, DEDNForZeroShot, exist_ok=True)


def register_when_loaded() -> None:
    """Register now, where transformers' table of models is loaded already, or as soon as it is."""
    if AUTO_MODELS in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterAutoModels) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterAutoModels())


class _AfterAutoModels(MetaPathFinder):
    """Finds nothing itself; when the table of models is imported, it steps aside and registers after it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != AUTO_MODELS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: object) -> None:
            load(module)
            register()

        spec.loader.exec_module = load_and_register
        return spec
