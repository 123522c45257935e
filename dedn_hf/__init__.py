"""Generalized zero-shot learning with the Dual Expert Distillation Network (DEDN).

`import dedn_hf` imports neither torch nor transformers: its public names are imported on first use. It also lets the
Auto classes of transformers know DEDN, as soon as they are loaded, so that no `trust_remote_code` is needed.
"""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

AUTO_CONFIGS, AUTO_MODELS, AUTO_PROCESSORS, PIPELINES = (
    *(f"transformers.models.auto.{kind}_auto" for kind in ("configuration", "modeling", "processing")),
    "transformers.pipelines",
)
CONFIG, MODEL, PROCESSOR = (f"dedn_hf.modeling.{name}_dedn" for name in ("configuration", "modeling", "pipeline"))
AUTO_CLASSES = ("AutoModel", "AutoModelForImageClassification", "AutoModelForZeroShotImageClassification")


def register() -> None:
    """Register our classes with those of transformers' Auto classes that are loaded; again does no harm.

    A module that is being imported, of transformers or of ours, lacks its classes yet: they come later.
    """
    auto_config = getattr(sys.modules.get(AUTO_CONFIGS), "AutoConfig", None)
    config = auto_config and getattr(import_module(CONFIG), "DEDNConfig", None)
    if not config:
        return
    auto_config.register(config.model_type, config, exist_ok=True)
    table = sys.modules.get(AUTO_MODELS)
    if hasattr(table, AUTO_CLASSES[-1]) and (model := getattr(import_module(MODEL), "DEDNForZeroShot", None)):
        for name in AUTO_CLASSES:
            getattr(table, name).register(config, model, exist_ok=True)
    auto_processor = getattr(sys.modules.get(AUTO_PROCESSORS), "AutoProcessor", None)
    ready = auto_processor and hasattr(sys.modules.get(PIPELINES), "pipeline")
    if ready and (processor := getattr(import_module(PROCESSOR), "DEDNProcessor", None)):
        auto_processor.register(config, processor, exist_ok=True)


def register_when_loaded() -> None:
    """Register now what is loaded already, and the rest as soon as it is."""
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())
    register()


# Without the base classes of importlib.abc: they would take as long to import as all the rest of this file.


class _Watch:
    """Finds nothing itself; when one of the modules above has been loaded, it lets `register` run."""

    def __init__(self) -> None:
        ours = {CONFIG, MODEL, PROCESSOR}
        self.awaited = {AUTO_CONFIGS, AUTO_MODELS, AUTO_PROCESSORS, PIPELINES, *ours} - set(sys.modules)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of an awaited module, with a loader that registers after it; None for any other."""
        if name not in self.awaited:
            return None
        self.awaited.remove(name)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: object) -> None:
            load(module)
            register()

        spec.loader.exec_module = load_and_register
        return spec


# Modules of release 0.1 and the rooms in which they are now. The old names go with release 0.3.
MOVED = {
    **dict.fromkeys(("features", "sampling", "tasks", "transforms"), "data"),
    **dict.fromkeys(("evaluation", "experiment", "inputs", "settings"), "training"),
    **dict.fromkeys(("card", "export", "hub", "saved", "serving"), "publish"),
    **dict.fromkeys(("comparison", "faithfulness", "pointing", "study"), "studies"),
    "plots": "explain.figures",
    "plots_study": "studies.figures",
    "reproduce": "studies.reproduction",
    "study_report": "studies.report",
}


class _OldNames:
    """Imports a module of `MOVED` by its old name, with a warning that says the new one."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        return ModuleSpec(name, self) if package == __name__ and module in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.rpartition(".")[2]
        new = f"{__name__}.{MOVED[old]}" + f".{old}" * ("." not in MOVED[old])
        warnings.warn(
            f"{module.__name__} is now {new}. The old name goes with release 0.3.", FutureWarning, stacklevel=2
        )
        sys.modules[module.__name__] = import_module(new)


sys.meta_path.append(_OldNames())  # last: it is asked only for what is not there
register_when_loaded()
