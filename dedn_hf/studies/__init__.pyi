from .report import write_report as write_report
from .reproduction import reproduce as reproduce
from .study import Study as Study
from .study import execute as execute
from .study import make_plan as make_plan
