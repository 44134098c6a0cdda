"""Context: bound what reading costs (attention, KV caches, recurrent states, segment and video memory)."""
