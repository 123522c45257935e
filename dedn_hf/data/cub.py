"""CUB-200-2011: 11,788 photos of 200 bird species, 312 attributes."""

from dedn_hf.data.benchmark_builder import BenchmarkBuilder


class CUB(BenchmarkBuilder):
    """Caltech-UCSD Birds-200-2011 with the proposed split: 150 seen and 50 unseen classes; see `BenchmarkBuilder`."""

    BENCHMARK = "cub"
    IMAGE_FOLDERS = ("CUB_200_2011/images", "images", "")
    TITLE = "CUB-200-2011"
    DESCRIPTION = "CUB-200-2011 with the proposed split for generalized zero-shot learning (Xian et al., TPAMI 2018)."
    HOMEPAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011"
    CITATION = "Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, Technical Report CNS-TR-2011-001, 2011."
    TERMS = "the images are for non-commercial research and educational use"
