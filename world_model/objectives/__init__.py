"""Stage-1 objectives, one file a family; and what they share: losses, masks, embeddings, teacher and metric."""
