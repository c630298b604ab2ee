"""The trained model for those who were not there: weights, configuration, model card, and how to score with it."""
