"""Trajectories on disk and on their way to a model: store, windows, batches, collecting, cached features.

Importing this package imports nothing; take what you need from its modules: `data.store` (create, Writer,
Reader), `data.collect`, `data.policies`, `data.windows`, `data.loader`, `data.features`.
Only `data.loader` imports torch.
"""
