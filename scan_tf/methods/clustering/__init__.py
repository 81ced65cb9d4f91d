"""The clustering stage's methods, one file each."""
