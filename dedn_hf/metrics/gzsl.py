"""The scores of generalized zero-shot learning as a metric of the `evaluate` library.

Where `dedn_hf` is installed, `evaluate.load("<folder>/dedn_hf/metrics/gzsl.py")` works, also offline.
"""

import datasets
import evaluate
from numpy.typing import ArrayLike

from dedn_hf.metrics.scores import gzsl_scores

_DESCRIPTION = """\
Scores of a classifier some of whose classes are unseen: they had no image at training time.
T1 is the accuracy on unseen-class images among unseen classes only. U and S are the accuracies on unseen- and
seen-class images among all classes. H is the harmonic mean of U and S. AUSUC is the area under the (U, S) curve that
results when a constant is added to the logits of unseen classes.
"""

_CITATION = """\
@article{xian2018zero, title={Zero-Shot Learning -- A Comprehensive Evaluation of the Good, the Bad and the Ugly},
  author={Xian, Yongqin and Lampert, Christoph H. and Schiele, Bernt and Akata, Zeynep}, journal={TPAMI}, year={2018}}
@inproceedings{chao2016empirical,
  title={An Empirical Study and Analysis of Generalized Zero-Shot Learning for Object Recognition in the Wild},
  author={Chao, Wei-Lun and Changpinyo, Soravit and Gong, Boqing and Sha, Fei}, booktitle={ECCV}, year={2016}}
"""

_INPUTS = """\
Args:
    predictions: logits, B x K floats.
    references: labels, B integers in 0..K-1.
    seen: K booleans, true for the classes that had images at training time; passed to `compute`.
Returns:
    T1, U, S, H, AUSUC: floats in [0, 1], or None without the images that a score needs (S: images of seen classes).
    per_class_accuracy: K floats among all classes, None for classes without images.

The scores are not means over batches, so one process needs all logits. In distributed runs, gather the logits first
(`accelerator.gather_for_metrics`), and call `add_batch` and `compute` on the main process only.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class GZSL(evaluate.Metric):
    """Example:

    >>> gzsl = GZSL()
    >>> logits = [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 2.0]]
    >>> scores = gzsl.compute(predictions=logits, references=[0, 2, 2], seen=[True, True, False])
    >>> scores["S"], scores["U"]
    (1.0, 0.5)
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1707.00600", "https://arxiv.org/abs/1605.04253"],
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike, seen: ArrayLike) -> dict:
        return gzsl_scores(predictions, references, seen)
