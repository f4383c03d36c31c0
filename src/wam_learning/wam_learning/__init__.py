"""From episodes to weights, offline: bags, data sets, training, evaluation; no nodes."""
