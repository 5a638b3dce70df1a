"""Where examples come from: records grouped into conversations, mixtures, costs known before."""
