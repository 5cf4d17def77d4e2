"""How good a model is: likelihoods and perplexities, metrics with intervals, baselines, one report."""
