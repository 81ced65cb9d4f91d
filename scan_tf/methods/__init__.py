"""What is learned: views to look at and a loss to minimise, one file for each method."""
