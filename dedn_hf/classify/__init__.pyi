from .answers import COLUMNS as COLUMNS
from .classifier import Summary as Summary
from .classifier import classify as classify
from .collection import collect as collect
from .rollup import read_groups as read_groups
