"""Load a hospital's files as model inputs: manifest, image decoding, dataset cache."""
