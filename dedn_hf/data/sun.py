"""SUN Attribute: 14,340 photos of 717 scene categories, 102 attributes."""

from dedn_hf.data.benchmark_builder import BenchmarkBuilder


class SUN(BenchmarkBuilder):
    """SUN Attribute with the proposed split: 645 seen and 72 unseen classes; see `BenchmarkBuilder`."""

    BENCHMARK = "sun"
    IMAGE_FOLDERS = ("SUNAttributeDB/images", "images", "")
    TITLE = "SUN Attribute"
    DESCRIPTION = "SUN Attribute with the proposed split for generalized zero-shot learning (Xian et al., TPAMI 2018)."
    HOMEPAGE = "https://cs.brown.edu/~gmpatter/sunattributes.html"
    CITATION = "Patterson et al., The SUN Attribute Database, International Journal of Computer Vision, 2014."
    TERMS = "terms not known here, see the homepage"
