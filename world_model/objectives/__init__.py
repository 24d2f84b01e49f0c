"""Stage-1 objectives: losses, masks, targets, and the metric of the pooled embedding."""
