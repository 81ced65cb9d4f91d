"""How good features and clusterings are: arrays in, scores and choices out."""
