"""Model evaluation: metrics, predictions, score histograms, subgroups."""
