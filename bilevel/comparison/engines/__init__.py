"""What computes the shards of a comparison: processes of this machine, or those of a cluster."""
