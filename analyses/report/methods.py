"""What the report says about each analysis: its heading, its method in two sentences, captions.

An analysis that is not named here (another package's) appears with its own question and name.
"""

from __future__ import annotations

HEADINGS: dict[str, str] = {
    "summary": "Summary",
    "spatial-cv": "Spatial structure within images",
    "class-distance": "Class mean maps and their distances",
    "center-edge": "Centre against edge",
    "f-statistic": "Where classes differ",
    "mode-variance": "Variance between images and between positions",
    "image-summary": "Single images",
    "ridge-probe": "Linear probes",
    "reliability": "Reliability of the measurement",
    "information": "What the maps tell beyond the singular values",
    "conv-probe": "A readout that keeps space",
    "content": "Maps and what the image shows",
    "compare": "Two stores compared",
}

METHODS: dict[str, str] = {
    "spatial-cv": (
        "Moran's I is computed for every image and mode over neighbouring patches. What decides is "
        "its mean over images, compared with the means under joint shuffles, which move the "
        "patches of all images and modes alike: that images share an effect of position is no "
        "evidence, that neighbours are alike in it is. Without the mean map of all images what is "
        "left is structure of their own. The share of single maps that stays "
        "significant after the Benjamini-Hochberg procedure over images, and the notebook's "
        "coefficient of variation, which cannot see space, are given beside it."
    ),
    "class-distance": (
        "Each class's maps are averaged, and the Euclidean distances and cosines of all pairs of "
        "class means are compared with those under permuted labels and with the distance that "
        "two random halves of one class show. PERMANOVA's pseudo-F asks the same of all images "
        "at once: spread between classes against spread within. PERMDISP asks whether classes are "
        "as widely spread as each other, and Welch's F whether their means differ whatever it says."
    ),
    "center-edge": (
        "The mean of the patches near the border is divided by the mean of the central block, "
        "with a 95% interval over images; of logarithms, the ratio is that of geometric means. "
        "Paired t tests ask whether the two differ, by mode over all images with Holm's "
        "correction, and by class with the Benjamini-Hochberg procedure."
    ),
    "f-statistic": (
        "A one-way analysis of variance at every position and mode gives F with its degrees of "
        "freedom, p and eta squared. Labels are permuted and the largest F over all positions "
        "and modes is kept each time: what exceeds 95% of these maxima is significant for the "
        "whole map at once. Welch's F does the same for means where classes differ in spread, and "
        "TFCE and cluster mass for neighbouring positions together. q is of permutation p."
    ),
    "mode-variance": (
        "Each mode's mean map over all images is described by its mean, its variance over "
        "patches without the noise of the mean and their ratio, with intervals from how groups of "
        "images differ. The variance "
        "of all values is split into parts between images, between positions, and the rest."
    ),
    "image-summary": (
        "Every image is described by the mean, spread and extremes of its map and by the entropy "
        "of its patches' share of the total, 1 being uniform. A hot spot is a patch above twice "
        "the image's mean."
    ),
    "ridge-probe": (
        "A ridge regression to one-hot classes is trained on the flattened, standardised maps in "
        "stratified folds, its penalty chosen inside each training fold, and tested on the fold "
        "left out. All sets of maps are tested on the same folds, so their differences are "
        "paired; labels permuted within folds give the level of no information."
    ),
    "reliability": (
        "Every matrix was measured again with changes of at most one unit in the last place. "
        "Reliability is the share of a map's variance that does not lie between these "
        "measurements, by mode and on three scales, with a bootstrap over images. Where friction "
        "without its rounding is in the store, the difference is the rounding error."
    ),
}

SAME_QUANTITY: dict[tuple[str, str], str] = {
    ("spatial-cv", "mean_cv"): "mean_cv",
    ("class-distance", "mean_inter_class_distance"): "mean_distance",
    ("class-distance", "mean_cosine"): "mean_cosine",
    ("class-distance", "min_cosine"): "min_cosine",
}
"""Figures of the notebook, and the value that is the same quantity; of probes their accuracies."""

CAPTIONS: dict[tuple[str, str], str] = {
    ("spatial-cv", "moran"): "Moran's I of every image, by mode",
    ("class-distance", "distance"): "Euclidean distance between class mean maps",
    ("center-edge", "edge_centre"): "Edge over centre by class, with 95% intervals over images",
    ("mode-variance", "mean_map"): "Mean map over all images, by mode",
    ("mode-variance", "shares"): "Where the variance lies, by mode",
    ("image-summary", "entropy"): "Entropy of the images' maps",
    ("ridge-probe", "accuracy"): "Accuracy of each set of maps, with 95% intervals",
    ("ridge-probe", "confusion"): "Confusion matrix: true class by predicted class",
    ("summary", "probes"): "Accuracy of the linear probes, with 95% intervals",
}
