"""Image embeddings: regions of pictures, without text or a language model.

    python images.py

Embeds the 1,797 handwritten digits that ship with scikit-learn (any embeddings will do: give their array), builds, and
tells how far regions hold one digit each.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import exemplar_partitioning as ep


def main() -> None:
    """Build, annotate, and tell how pure the regions are."""
    digits = load_digits()
    embedded = PCA(32, whiten=True, random_state=0).fit_transform(digits.data).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(embedded))  # the stream is to be mixed
    x, truth = embedded[order], digits.target[order]
    ep.build_from_activations(x, out="digits", percentiles=[1, 5], annotate=True)
    for percentile in (1, 5):
        d = ep.load("digits", percentile=percentile)
        region, distance = d.assign(x)
        pure = sum(np.bincount(truth[region == each]).max() for each in np.unique(region)) / len(x)
        chance = sum(np.bincount(np.random.default_rng(1).permutation(truth)[region == each]).max()
                     for each in np.unique(region)) / len(x)  # fmt: skip
        print(f"percentile {percentile}: {d.k} regions; {pure:.1%} of digits are of their region's commonest kind "
              f"(shuffled: {chance:.1%}); {(distance <= d.threshold).mean():.1%} within theta")  # fmt: skip
        print("  a region is named by the row of its exemplar:", d.regions["document"][0].as_py())


if __name__ == "__main__":
    main()
