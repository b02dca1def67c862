"""What others have made, read without their code: sparse autoencoders to compare with, and the paper's dictionaries."""

from .autoencoder import SparseAutoencoder, load_sae
from .published import import_published

__all__ = ["SparseAutoencoder", "import_published", "load_sae"]
