"""Judge a model: metrics, predictions, score histograms, subgroups."""
