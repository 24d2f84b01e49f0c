"""Building blocks of the networks: layers, transformer stack, stems, pools, caches, heads."""
