"""Judge layer predictors: splits that leave something out, baselines, and scores."""
