"""The self-label stage's methods, one file each."""
