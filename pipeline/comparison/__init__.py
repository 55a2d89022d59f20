"""What reports that set many of a kind beside one another share: their lines, their picture, the round they are of."""
