from .modeling.attribute_table import AttributeTable as AttributeTable
from .modeling.configuration_dedn import DEDNConfig as DEDNConfig
from .modeling.modeling_dedn import DEDNForZeroShot as DEDNForZeroShot
from .modeling.pipeline_dedn import DEDNPipeline as DEDNPipeline

__version__: str
