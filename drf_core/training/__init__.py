"""Training a model under disruption, what is fitted to posts, and the card that it leaves."""
