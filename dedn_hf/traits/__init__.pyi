from .opening import open_sheet as open_sheet
from .reading import read_traits as read_traits
from .report import TraitReport as TraitReport
from .report import classes_alike as classes_alike
