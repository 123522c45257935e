from .awa2 import AWA2 as AWA2
from .benchmarks import attribute_table as attribute_table
from .cub import CUB as CUB
from .folder import Folder as Folder
from .loading import load as load
from .preparing import prepare as prepare
from .shapes import Shapes as Shapes
from .sun import SUN as SUN
