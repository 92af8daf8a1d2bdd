"""Weighted F1 of a linear SVM on the features of a corpus, pooled over the test parts of a protocol: what a run on the
same features has to beat. Where the corpus keeps layers apart, each by itself, and the one that the validation part of
every fold chooses."""

import argparse
import collections
import json
import sys

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.data.protocols import split


def features_of(corpus, modality):
    """Float64[utterances, layers, width], means over time."""
    layers = len(corpus.modalities[modality].get("layers", [0]))
    found = [corpus[row].features[modality].astype(np.float64).mean(0) for row in range(len(corpus))]
    return np.stack(found).reshape(len(corpus), layers, -1)


def predicted(x, label, train, part, c):
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    scale = StandardScaler().fit(x[train])
    svm = SVC(C=c, kernel="linear", class_weight="balanced")  # one against one: 7 points above one against the rest
    return svm.fit(scale.transform(x[train]), label[train]).predict(scale.transform(x[part]))


def score(true, said):
    from sklearn.metrics import f1_score

    return f1_score(true, said, average="weighted")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--modality", default="audio")
    parser.add_argument("--protocol", default="loso")
    parser.add_argument("--seed", type=int, default=0, help="of the protocol's validation parts")
    parser.add_argument("-C", type=float, default=3.0)
    arguments = parser.parse_args()
    corpus = Corpus(arguments.corpus)
    x, label = features_of(corpus, arguments.modality), corpus.label_ids(np.arange(len(corpus)))
    layers = corpus.modalities[arguments.modality].get("layers", [""])
    truth, said, chose = [], collections.defaultdict(list), []
    for fold in split(corpus, arguments.protocol, arguments.seed).folds:
        truth.append(label[fold.test])
        valid = []
        for at, layer in enumerate(layers):
            said[layer].append(predicted(x[:, at], label, fold.train, fold.test, arguments.C))
            valid.append(score(label[fold.valid], predicted(x[:, at], label, fold.train, fold.valid, arguments.C)))
        chose.append(layers[int(np.argmax(valid))])
        said["chosen by validation"].append(said[chose[-1]][-1])
    truth = np.concatenate(truth)
    found = {f"layer {layer}".removesuffix(" "): score(truth, np.concatenate(parts)) for layer, parts in said.items()}
    json.dump({"weighted F1": {k: round(100 * v, 1) for k, v in found.items()}, "chose": chose}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
