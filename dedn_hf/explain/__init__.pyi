from .explainer import attribute_evidence as attribute_evidence
from .explainer import explain as explain
from .explainer import region_maps_of as region_maps_of
from .explanation import Explanation as Explanation
