"""Weights in and out: official checkpoints, Hugging Face directories, timm encoders, golden numbers."""
