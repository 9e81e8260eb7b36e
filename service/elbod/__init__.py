"""elbod, the ELBO daemon: trained VAE-style generators behind a small HTTP service."""

__version__ = "0.1.0"
