"""How a trained system is measured: clips, baselines, scores, what they stand for."""
