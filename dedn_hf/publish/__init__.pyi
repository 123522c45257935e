from .card import write_card as write_card
from .describing import describe_classes as describe_classes
from .export import export_model as export_model
from .hub import push_data as push_data
from .hub import push_model as push_model
from .saved import load_model as load_model
from .serving import serve as serve
