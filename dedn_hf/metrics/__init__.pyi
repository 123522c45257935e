from .gzsl import GZSL as GZSL
from .scores import calibrate as calibrate
from .scores import gzsl_compute_metrics as gzsl_compute_metrics
from .scores import gzsl_scores as gzsl_scores
from .scores import seen_unseen_curve as seen_unseen_curve
