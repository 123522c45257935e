from .evaluation import evaluate as evaluate
from .experiment import Experiment as Experiment
from .experiment import run as run
from .loop import fit as fit
from .settings import TrainingSettings as TrainingSettings
from .settings import read_preset as read_preset
from .testing import evaluate_photos as evaluate_photos
