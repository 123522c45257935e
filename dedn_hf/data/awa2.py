"""Animals with Attributes 2: 37,322 photos of 50 animals, 85 attributes."""

from dedn_hf.data.benchmark_builder import BenchmarkBuilder


class AWA2(BenchmarkBuilder):
    """Animals with Attributes 2 with the proposed split: 40 seen and 10 unseen classes; see `BenchmarkBuilder`."""

    BENCHMARK = "awa2"
    IMAGE_FOLDERS = ("Animals_with_Attributes2/JPEGImages", "JPEGImages", "")
    TITLE = "Animals with Attributes 2"
    DESCRIPTION = "Animals with Attributes 2 with the proposed split for generalized zero-shot learning (Xian et al.)."
    HOMEPAGE = "https://cvml.ista.ac.at/AwA2"
    CITATION = "Xian et al., Zero-Shot Learning: A Comprehensive Evaluation, TPAMI 2018."
    TERMS = "terms not known here, see the homepage"
