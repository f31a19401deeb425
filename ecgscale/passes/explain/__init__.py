"""Every record of an archive to facts: planned, computed and committed shard by shard, published as one manifest."""
