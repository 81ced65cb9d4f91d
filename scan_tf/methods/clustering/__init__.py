"""The clustering methods: from features, or a network, to logits of clusters."""
