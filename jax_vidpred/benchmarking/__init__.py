"""What `jax_vidpred.benchmark` measures and how it tells."""
