"""Training on packs: each unique token of pairs, siblings and whole trees passes forward and backward once."""
