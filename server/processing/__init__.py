"""From a request to pixels, and from probabilities to labels: decoding and ranking."""
