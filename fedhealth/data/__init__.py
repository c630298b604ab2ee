"""From a hospital's files to model inputs: manifest, decoding, cache, cohort."""
